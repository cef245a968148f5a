// Butterflies in lanes, on halves (halves.h): products come as halves, and between them and the results nothing is reduced.
// ntt.h has the same on words. Halves of up to 33 bits go in, of up to 2^59 come out.
#pragma once

VL_FN void sum_difference(Halves& a, Halves& b) {
    const Halves s = a + b;
    b = a - b;
    a = s;
}

VL_FN void dit8(Halves* r) {
    for (int k = 0; k < 8; k += 2) sum_difference(r[k], r[k + 1]);
    r[3] = times48(r[3]);
    sum_difference(r[0], r[2]);
    sum_difference(r[1], r[3]);
    sum_difference(r[4], r[6]);
    r[6] = times48(r[6]);
    // (b + 2^48·d)·2^24 and (b - 2^48·d)·2^72; w = -2^24, w^3 = -2^72
    const Halves b = r[5], d = r[7], x = times24(b) + times72(d), y = times72(b) + times24(d);
    sum_difference(r[0], r[4]);
    sum_difference(r[2], r[6]);
    r[5] = r[1] + x, r[1] = r[1] - x;
    r[7] = r[3] + y, r[3] = r[3] - y;
}
VL_FN void dit8(VL_WIDE* r, const VL_WIDE* w) {
    Halves h[8];
    h[0] = halves(r[0]);
    for (int k = 1; k < 8; ++k) h[k] = product(r[k], w[k - 1]);
    dit8(h);
    for (int k = 0; k < 8; ++k) r[k] = reduce_signed(h[k]);
}

VL_FN void dif8(Halves* h) {
    for (int k = 0; k < 4; ++k) sum_difference(h[k], h[k + 4]);
    sum_difference(h[0], h[2]);
    sum_difference(h[1], h[3]);
    h[3] = times48(h[3]);
    h[6] = times48(h[6]);
    // w^-1 = 2^72, w^-2 = -2^48, w^-3 = 2^24: b·w^-1 + d·w^-3, and (b·w^-1 - d·w^-3)·w^-2
    const Halves a = h[4] - h[6], c = h[4] + h[6], b = h[5], d = h[7];
    const Halves x = times72(b) + times24(d), y = times24(b) + times72(d);
    h[4] = a + x, h[5] = a - x, h[6] = c + y, h[7] = c - y;
    const Halves e = h[2];
    h[2] = e - h[3], h[3] = e + h[3];
    sum_difference(h[0], h[1]);
}

#ifndef VL_512  // these are slower there, where masks make sums of words cheap
VL_FN void dit4(Halves& a, Halves& b, Halves& c, Halves& d) {
    sum_difference(a, b);
    sum_difference(c, d);
    d = times48(d);
    sum_difference(a, c);
    sum_difference(b, d);
}
VL_FN void dit4(VL_WIDE& a, VL_WIDE& b, VL_WIDE& c, VL_WIDE& d, VL_WIDE w1, VL_WIDE w2, VL_WIDE w3) {
    Halves s = halves(a), t = product(b, w2), u = product(c, w1), v = product(d, w3);
    dit4(s, t, u, v);
    a = reduce_signed(s), b = reduce_signed(t), c = reduce_signed(u), d = reduce_signed(v);
}

VL_FN void dif4(VL_WIDE& a, VL_WIDE& b, VL_WIDE& c, VL_WIDE& d, VL_WIDE w1, VL_WIDE w2, VL_WIDE w3) {
    Halves s0 = halves(a), s1 = halves(c), s2 = halves(b), s3 = halves(d);
    sum_difference(s0, s1);
    sum_difference(s2, s3);
    s3 = times48(s3);
    a = reduce_signed(s0 + s2);
    b = reduce_signed(product(reduce_signed(s0 - s2), w2));
    c = reduce_signed(product(reduce_signed(s1 - s3), w1));
    d = reduce_signed(product(reduce_signed(s1 + s3), w3));
}

VL_FN void dif8(VL_WIDE* r, const VL_WIDE* w) {
    Halves h[8];
    for (int k = 0; k < 8; ++k) h[k] = halves(r[k]);
    dif8(h);
    for (int k = 0; k < 8; ++k) r[k] = reduce_signed(h[k]);
    for (int k = 1; k < 8; ++k) r[k] = reduce_signed(product(r[k], w[k - 1]));
}
#endif
