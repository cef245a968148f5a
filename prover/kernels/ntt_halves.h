// Transforms of 16 or 8 words in lanes, on halves (halves.h) from the products with twiddles to the reductions; for cosets.h. Those of
// 8 are in ntt_wide.h.
//
// 2 is a root of unity of order 192 with 2^96 = -1, so a transform of 16 words without twiddles only shifts and adds. Its halves are
// never reduced: each input reaches an output by one shift of less than 32 bits, so an output's halves, sums of 16 shifted ones of up
// to 2^33, stay below 2^61.2 and 2^61.7 (the shifts of an output are 0, 4, … 28, each twice). That is why a product by one root is not
// split into two: 2^48·2^24 would shift by 16 and 24 bits, 2^72 shifts by 8.
#pragma once

enum { ROOT = 156, ROOT8 = 120 };  // exponents of 2 in the 16th root w of protocol/field.py, and in w^2; w^4 = 2^48

template <int E>
VL_FN void add_power(Halves& sum, Halves x) {  // sum + 2^E·x
    constexpr int turn = (E % 192 + 192) % 192 / 32, shift = (E % 32 + 32) % 32;
    const Limb both = x.low + x.high;
    if (turn == 0) sum.low += x.low << shift, sum.high += x.high << shift;
    if (turn == 1) sum.low -= x.high << shift, sum.high += both << shift;
    if (turn == 2) sum.low -= both << shift, sum.high += x.low << shift;
    if (turn == 3) sum.low -= x.low << shift, sum.high -= x.high << shift;
    if (turn == 4) sum.low += x.high << shift, sum.high -= both << shift;
    if (turn == 5) sum.low += both << shift, sum.high -= x.low << shift;
}
template <int A, int B>
VL_FN Halves two_powers(Halves a, Halves b) {
    Halves sum{};
    add_power<A>(sum, a), add_power<B>(sum, b);
    return sum;
}
template <int A, int B, int C, int D>
VL_FN Halves four_powers(Halves a, Halves b, Halves c, Halves d) {
    Halves sum{};
    add_power<A>(sum, a), add_power<B>(sum, b), add_power<C>(sum, c), add_power<D>(sum, d);
    return sum;
}

template <int K>
VL_FN Halves turned_odd(const Halves* r) {  // w^K·output K of dit8, K odd, after its first sums and differences
    constexpr int e = K * ROOT, e1 = e + K * 48, e2 = e + K * ROOT8, e3 = e2 + K * 48;
    return four_powers<e, e1, e2, e3>(r[1], r[3], r[5], r[7]);
}
// r[k] to w^k·(output k of dit8)
VL_FN void dit8_turned(Halves* r) {
    for (int k = 0; k < 8; k += 2) sum_difference(r[k], r[k + 1]);
    sum_difference(r[0], r[2]);
    sum_difference(r[4], r[6]);
    const Halves a = r[2], b = r[6], odd[4] = {turned_odd<1>(r), turned_odd<3>(r), turned_odd<5>(r), turned_odd<7>(r)};
    sum_difference(r[0], r[4]);
    r[4] = times48(r[4]);
    r[2] = two_powers<2 * ROOT, 2 * ROOT + 48>(a, b);
    r[6] = two_powers<6 * ROOT, 6 * ROOT + 48 + 96>(a, b);
    for (int k = 0; k < 4; ++k) r[2 * k + 1] = odd[k];
}

template <int M>
VL_FN Halves odd_frequency(const Halves* r) {  // Σ w^(-k(2M + 1))·r[k] over odd k
    constexpr int e = -(2 * M + 1) * ROOT;
    return four_powers<e, 3 * e, 5 * e, 7 * e>(r[1], r[3], r[5], r[7]);
}
// r[rev(m)] = Σ_k w^(-k(2m + 1))·r[k], the odd outputs of a transform of 16 words from the differences of its inputs
VL_FN void dif8_turned(Halves* r) {
    const Halves turned = times48(r[4]), odd[4] = {odd_frequency<0>(r), odd_frequency<2>(r), odd_frequency<1>(r), odd_frequency<3>(r)};
    const Halves a = r[0] - turned, b = r[0] + turned;  // w^-4 = -2^48
    const Halves c = two_powers<-2 * ROOT, -6 * ROOT>(r[2], r[6]), d = two_powers<-6 * ROOT, -18 * ROOT>(r[2], r[6]);
    const Halves even[4] = {a + c, a - c, b + d, b - d};
    for (int k = 0; k < 4; ++k) r[2 * k] = even[k] + odd[k], r[2 * k + 1] = even[k] - odd[k];
}

// Transforms of R = 8 or 16 words: get(k) gives halves, put(k, x) takes them. Forward from a bit-reversed to the natural order, inverse
// the other way. get(0) reaches every output once and positive, so what keeps them positive is added to it, a multiple of p, and the
// 2^32 - 1 that reduce_raised wants.
template <int R>
VL_FN Halves with_room(Halves x) {
    constexpr u64 c = R == 16 ? 1 << 30 : 1 << 28;
    return x + Halves{Limb{} + ((c << 32) + c + GL_EPS), Limb{} + ((c << 32) - 2 * c)};
}
template <int R, class Get, class Put>
VL_FN void forward_halves(const Get& get, const Put& put) {
    Halves odd[8], r[8];
    if (R == 16) {
        for (int k = 0; k < 8; ++k) odd[k] = get(8 + k);
        dit8_turned(odd);
    }
    for (int k = 0; k < 8; ++k) r[k] = k ? get(k) : with_room<R>(get(0));
    dit8(r);
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
        if (R == 16) sum_difference(r[k], odd[k]), put(8 + k, odd[k]);
        put(k, r[k]);
    }
}
template <int R, class Get, class Put>
VL_FN void inverse_halves(const Get& get, const Put& put) {
    Halves odd[8], r[8];
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
        r[k] = k ? get(k) : with_room<R>(get(0));
        if (R == 16) odd[k] = get(8 + k), sum_difference(r[k], odd[k]);
    }
    if (R == 16) {
        dif8_turned(odd);
#pragma GCC unroll 8
        for (int k = 0; k < 8; ++k) put(8 + k, odd[k]);
    }
    dif8(r);
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) put(k, r[k]);
}
