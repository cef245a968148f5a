// Encoding at rate 1/4 with AVX2: lane c of a vector belongs to coset c (encode.h has the general way). CPU only.
//
// A codeword's word 4j + c is value j on coset c, so a forward transform of vectors ends as the codeword, nothing is put in
// lanes, and all lanes take part in every pass: of radix 8 or 16, on halves (ntt_halves.h), sizes 16^b·8^a with as many 16 as possible
// at the bottom, where strides are short. Twiddles contain the coset's shift: block of size s, shift s_c = shift·g^c, word j + k·s/R of its
// R transforms' j-th outputs times (s_c^(ell/s)·w_s^j)^e = (shift·g^(4j + c))^(e·ell/s), e the bit-reversed k. There is no scaling apart.
// The inverse transform has four words of one message in a vector. Both multiply where a pass reads, so that a word is reduced once a
// pass, and multiply what a pass reads first by nothing where e = 0. Tables: prover/backend/coset_plan.py.
#pragma once
#include "ntt_halves.h"

struct Cosets {
    const u64 *messages, *rho;  // (rows, ell), (rows, blinding)
    u64* out;                   // (rows, 4·ell), at a multiple of 32 bytes
    const u64 *inverse;         // for each pass below the first, from the top: w^-(j·e) for place k of a block's R parts and j in it; scaled by
                                // 1/ell and in the order of `split_base` for the last
    const u64 *forward;         // for each pass from the top: vectors of four (shift·g^(4j + c))^(e·ell/s), [j < s/R][0 < k < R]
    const u64 *powers;          // s_c^ell
    const u64 *places;          // k of a bit-reversed place
    u64 ell, blinding;
};

static VL_FN u64 radix_of(u64 size) { return __builtin_ctzll(size) % 4 ? 8 : 16; }

// ---- message to coefficients ----------------------------------------------------------------------------------------

// The pass of a block; below the first, words are multiplied as they are read.
template <int R, bool FIRST>
static VL_APART void split(const u64* from, u64* x, u64 q, const u64* tw) {
    for (u64 j = 0; j < q; j += 4)
        inverse_halves<R>(
            [&](int k) {
                const V4 word = load<V4>(from + k * q + j);
                return FIRST ? halves(word) : product(word, load<V4>(tw + k * q + j));
            },
            [&](int k, Halves h) { store(x + k * q + j, reduce_raised(h)); });
}
// The last pass, four blocks of R words in the lanes; word k of block b goes to place 4k + b, and so are twiddles.
template <int R>
static VL_APART void split_base(u64* x, u64 size, const u64* tw) {
    for (u64 i = 0; i < size; i += 4 * R) {
        V4 word[R];
        for (int k = 0; k < R; k += 4) {
            for (int b = 0; b < 4; ++b) word[k + b] = load<V4>(x + i + b * R + k);
            transpose4(word + k);
        }
        inverse_halves<R>([&](int k) { return product(word[k], load<V4>(tw + i + 4 * k)); },
                          [&](int k, Halves h) { store(x + i + 4 * k, reduce_raised(h)); });
    }
}
// `tw`: of this block, then `below` of what it is split into
template <bool FIRST>
static void coefficients(const u64* from, u64* x, u64 size, const u64* tw, const u64* below) {
    const u64 radix = radix_of(size), q = size / radix, next = radix_of(q);
    radix == 16 ? split<16, FIRST>(from, x, q, tw) : split<8, FIRST>(from, x, q, tw);
    if (q == next) return q == 16 ? split_base<16>(x, size, below) : split_base<8>(x, size, below);
    for (u64 k = 0; k < radix; ++k) coefficients<false>(x + k * q, x + k * q, q, below + k * q, below + size);
}

// ---- coefficients to codewords -----------------------------------------------------------------------------------------

// What blinding adds to the k-th coefficient: (s_c^ell - 1)·Σ_i s_c^(ell·i)·rho[k + ell·i]
static VL_FN V4 blinding_of(const Cosets& e, const u64* rho, u64 k) {
    const V4 t = load<V4>(e.powers);
    u64 at = k + (e.blinding - 1 - k) / e.ell * e.ell;
    V4 sum = spread<V4>(rho[at]);
    while (at >= e.ell) at -= e.ell, sum = gadd(gmul(sum, t), spread<V4>(rho[at]));
    return gmul(sum, gsub(t, spread<V4>(1)));
}
// The first pass, on R neighbouring places
template <int R>
static VL_APART void join_base(const Cosets& e, const u64* coefs, const u64* rho, u64* x, u64 begin, u64 end, u64 step, const u64* tw) {
    for (u64 place = begin; place < end; place += R) {
        V4 word[R];
        const u64* from = coefs + place / (4 * R) * (4 * R) + place / R % 4;
        for (int k = 0; k < R; ++k) word[k] = spread<V4>(from[4 * k]);
        for (u64 at = (place + step - 1) / step * step; at < place + R; at += step)
            if (e.places[at] < e.blinding) word[at - place] = gadd(word[at - place], blinding_of(e, rho, e.places[at]));
        forward_halves<R>([&](int k) { return k ? product(word[k], load<V4>(tw + 4 * (k - 1))) : halves(word[0]); },
                          [&](int k, Halves h) { store(x + 4 * (place - begin + k), reduce_raised(h)); });
    }
}
template <int R>
static VL_APART void join(u64* x, u64 q, const u64* tw) {
    for (u64 j = 0; j < q; ++j, x += 4, tw += 4 * (R - 1))
        forward_halves<R>(
            [&](int k) { return k ? product(load<V4>(x + 4 * k * q), load<V4>(tw + 4 * (k - 1))) : halves(load<V4>(x)); },
            [&](int k, Halves h) { store(x + 4 * k * q, reduce_raised(h)); });
}
// The last pass. A codeword is written once and read much later, so it goes past the caches, in whole lines of two vectors.
template <int R>
static VL_APART void join_last(u64* out, const u64* x, u64 q, const u64* tw) {
    for (u64 j = 0; j < q; j += 2, x += 8, out += 8) {
        V4 even[R];
        const auto at = [&](const u64* from) {
            return [from, q, tw](int k) { return k ? product(load<V4>(from + 4 * k * q), load<V4>(tw + 4 * (k - 1))) : halves(load<V4>(from)); };
        };
        forward_halves<R>(at(x), [&](int k, Halves h) { even[k] = reduce_raised(h); });
        tw += 4 * (R - 1);
        forward_halves<R>(at(x + 4), [&](int k, Halves h) {
            store_past(out + 4 * k * q, even[k]);
            store_past(out + 4 * k * q + 4, reduce_raised(h));
        });
        tw += 4 * (R - 1);
    }
    _mm_sfence();
}

struct Joining {  // one row's
    const Cosets& e;
    const u64 *coefs, *rho;
    u64 step;  // places that blinding changes are multiples of it

    // all passes of a block but its last one
    void parts(u64* x, u64 place, u64 size, const u64* tw) const {
        const u64 radix = radix_of(size), q = size / radix;
        tw += 4 * q * (radix - 1);
        if (q == radix_of(q)) {
            q == 16 ? join_base<16>(e, coefs, rho, x, place, place + size, step, tw) : join_base<8>(e, coefs, rho, x, place, place + size, step, tw);
            return;
        }
        for (u64 k = 0; k < radix; ++k) block(x + 4 * k * q, place + k * q, q, tw);
    }
    void block(u64* x, u64 place, u64 size, const u64* tw) const {
        parts(x, place, size, tw);
        radix_of(size) == 16 ? join<16>(x, size / 16, tw) : join<8>(x, size / 8, tw);
    }
};

VL_EXPORT void vl_encode_cosets(const Cosets* given, u64 rows, u64) {
    const Cosets e = *given;
    u64 step = e.ell;
    while (step > 1 && e.ell / step < e.blinding) step /= 2;
    parallel(rows, rows * e.ell * 4, [&](unsigned, u64 lo, u64 hi) {
        std::vector<u64> room(5 * e.ell + 8);
        u64 *x = room.data() + (64 - (u64)room.data() % 64) / 8, *coefs = x + 4 * e.ell;
        for (u64 row = lo; row < hi; ++row) {
            coefficients<true>(e.messages + row * e.ell, coefs, e.ell, nullptr, e.inverse);
            Joining{e, coefs, e.rho + row * e.blinding, step}.parts(x, 0, e.ell, e.forward);
            u64* out = e.out + row * e.ell * 4;
            radix_of(e.ell) == 16 ? join_last<16>(out, x, e.ell / 16, e.forward) : join_last<8>(out, x, e.ell / 8, e.forward);
        }
    });
}
