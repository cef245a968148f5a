// Encoding at rate 1/4 in lanes: lane i of a vector belongs to coset i mod 4 (encode.h has the general way). CPU only.
//
// A codeword's word 4j + c is value j on coset c, so a forward transform of vectors of one value (AVX2) or two neighbours (AVX-512) ends
// as the codeword, and all lanes take part in every pass: of radix 8 or 16, on halves (ntt_halves.h), sizes 16^b·8^a with the 16 at the
// bottom, where strides are short. Twiddles contain the coset's shift, so there is no scaling apart: in a block of s words, with
// s_c = shift·g^c, part k of R is multiplied by (s_c^(ell/s)·w_s^j)^e = (shift·g^(4j + c))^(e·ell/s), e the bit-reversed k.
// The inverse transform has neighbouring words of one message in a vector. Both multiply what a pass reads, so that a word is reduced
// once a pass. Tables: prover/backend/coset_plan.py.
#pragma once
#include "ntt_halves.h"

struct Cosets {
    const u64 *messages, *rho;  // (rows, ell), (rows, blinding)
    u64* out;                   // (rows, 4·ell), at a cache line
    const u64 *inverse;         // for each pass below the top: w^-(j·e) for part k of a block and j in it; that of the last pass divided
                                // by ell, in the order that split_base makes
    const u64 *forward;         // for each pass from the top: [vector of a part][0 < k < R][lane], all values of the lowest alike
    const u64 *powers, *places;  // s_c^ell; k of a bit-reversed place
    u64 ell, blinding;
};

enum { LANES = Lanes<VL_WIDE>::count, VALUES = LANES / 4 };

#ifdef VL_512
VL_FN void transpose(V8* r) { transpose8(r); }
VL_FN V8 four_lanes(const u64* at) { return V8{_mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i*)at))}; }  // for each value
VL_FN V8 spread_each(const u64* at) {  // a word for each value, in its four lanes
    return V8{_mm512_mask_set1_epi64(_mm512_set1_epi64((i64)at[0]), 0xF0, (i64)at[1])};
}
VL_FN V8 only_value(V8 x, u64 value) { return V8{_mm512_maskz_mov_epi64((__mmask8)(0xF << 4 * value), x.v)}; }
VL_FN void store_each(u64* at, u64 apart, V8 x) {
    _mm256_store_si256((__m256i*)at, _mm512_castsi512_si256(x.v));
    _mm256_store_si256((__m256i*)(at + apart), _mm512_extracti64x4_epi64(x.v, 1));
}
#else
VL_FN void transpose(V4* r) { transpose4(r); }
VL_FN V4 four_lanes(const u64* at) { return load<V4>(at); }
VL_FN V4 spread_each(const u64* at) { return spread<V4>(*at); }
VL_FN V4 only_value(V4 x, u64) { return x; }
VL_FN void store_each(u64* at, u64, V4 x) { store(at, x); }
#endif

static VL_FN u64 radix_of(u64 size) { return __builtin_ctzll(size) % 4 ? 8 : 16; }

// ---- message to coefficients ----------------------------------------------------------------------------------------

// The pass of a block that is split into parts of q words; the first one has no twiddles.
template <int R, bool FIRST>
static VL_APART void split(const u64* from, u64* x, u64 q, const u64* tw) {
    for (u64 j = 0; j < q; j += LANES)
        inverse_halves<R>(
            [&](int k) {
                const VL_WIDE word = load<VL_WIDE>(from + k * q + j);
                return FIRST ? halves(word) : product(word, load<VL_WIDE>(tw + k * q + j));
            },
            [&](int k, Halves h) { store(x + k * q + j, reduce_raised(h)); });
}
// The last pass, as many blocks of R words as there are lanes; word k of block b goes to LANES·k + b.
template <int R>
static VL_APART void split_base(u64* x, u64 size, const u64* tw) {
    for (u64 i = 0; i < size; i += LANES * R) {
        VL_WIDE word[R];
        for (int k = 0; k < R; k += LANES) {
            for (int b = 0; b < LANES; ++b) word[k + b] = load<VL_WIDE>(x + i + b * R + k);
            transpose(word + k);
        }
        inverse_halves<R>([&](int k) { return product(word[k], load<VL_WIDE>(tw + i + LANES * k)); },
                          [&](int k, Halves h) { store(x + i + LANES * k, reduce_raised(h)); });
    }
}
// `tw`: of this block; `below`: of what it is split into
template <bool FIRST>
static void coefficients(const u64* from, u64* x, u64 size, const u64* tw, const u64* below) {
    const u64 radix = radix_of(size), q = size / radix;
    radix == 16 ? split<16, FIRST>(from, x, q, tw) : split<8, FIRST>(from, x, q, tw);
    if (q == radix_of(q)) return q == 16 ? split_base<16>(x, size, below) : split_base<8>(x, size, below);
    for (u64 k = 0; k < radix; ++k) coefficients<false>(x + k * q, x + k * q, q, below + k * q, below + size);
}

// ---- coefficients to codewords --------------------------------------------------------------------------------------

// One row's. In x, a block's words lie one after the other, those of one value's cosets together.
struct Joining {
    const Cosets& e;
    const u64 *coefs, *rho;
    u64 step;  // of the places that blinding changes

    // what blinding adds to coefficient k: (s_c^ell - 1)·Σ_i s_c^(ell·i)·rho[k + ell·i]
    VL_FN VL_WIDE blinding(u64 k) const {
        const VL_WIDE t = four_lanes(e.powers);
        u64 at = k + (e.blinding - 1 - k) / e.ell * e.ell;
        VL_WIDE sum = spread<VL_WIDE>(rho[at]);
        while (at >= e.ell) at -= e.ell, sum = gadd(gmul(sum, t), spread<VL_WIDE>(rho[at]));
        return gmul(sum, gsub(t, spread<VL_WIDE>(1)));
    }
    // the first pass, on blocks of R places in [begin, end)
    template <int R>
    VL_APART void base(u64* x, u64 begin, u64 end, const u64* tw) const {
        for (u64 place = begin; place < end; place += VALUES * R, x += LANES * R) {
            VL_WIDE word[R];
            const u64* from = coefs + place / (LANES * R) * (LANES * R) + place / R % LANES;
            for (int k = 0; k < R; ++k) word[k] = spread_each(from + LANES * k);
            for (u64 at = (place + step - 1) / step * step - place; at < VALUES * R; at += step) {
                const u64 k = e.places[place + at];
                if (k < e.blinding) word[at % R] = gadd(word[at % R], only_value(blinding(k), at / R));
            }
            forward_halves<R>([&](int k) { return k ? product(word[k], load<VL_WIDE>(tw + LANES * (k - 1))) : halves(word[0]); },
                              [&](int k, Halves h) { store_each(x + 4 * k, 4 * R, reduce_raised(h)); });
        }
    }
    // all passes of a block but its last one
    void parts(u64* x, u64 place, u64 size, const u64* tw) const {
        const u64 radix = radix_of(size), q = size / radix;
        tw += 4 * q * (radix - 1);
        if (q == radix_of(q)) return q == 16 ? base<16>(x, place, place + size, tw) : base<8>(x, place, place + size, tw);
        for (u64 k = 0; k < radix; ++k) block(x + 4 * k * q, place + k * q, q, tw);
    }
    void block(u64* x, u64 place, u64 size, const u64* tw) const;
};

// The halves of part k's vector at x, parts being `apart` words apart
static VL_FN auto reader(const u64* x, u64 apart, const u64* tw) {
    return [=](int k) {
        const VL_WIDE word = load<VL_WIDE>(x + k * apart);
        return k ? product(word, load<VL_WIDE>(tw + LANES * (k - 1))) : halves(word);
    };
}
template <int R>
static VL_APART void join(u64* x, u64 apart, const u64* tw) {
    for (u64 j = 0; j < apart; j += LANES, x += LANES, tw += LANES * (R - 1))
        forward_halves<R>(reader(x, apart, tw), [&](int k, Halves h) { store(x + k * apart, reduce_raised(h)); });
}
// The last pass. A codeword is written once and read much later, so it goes past the caches, in whole lines: otherwise the memory that it
// overwrites would be read first.
template <int R>
static VL_APART void join_last(u64* out, const u64* x, u64 apart, const u64* tw) {
    for (u64 j = 0; j < apart; j += 8, x += 8, out += 8) {
        VL_WIDE first[R];
        if (VALUES == 1) {
            forward_halves<R>(reader(x, apart, tw), [&](int k, Halves h) { first[k] = reduce_raised(h); });
            tw += LANES * (R - 1);
        }
        forward_halves<R>(reader(x + 8 - LANES, apart, tw), [&](int k, Halves h) {
            if (VALUES == 1) store_past(out + k * apart, first[k]);
            store_past(out + k * apart + 8 - LANES, reduce_raised(h));
        });
        tw += LANES * (R - 1);
    }
    _mm_sfence();
}
inline void Joining::block(u64* x, u64 place, u64 size, const u64* tw) const {
    parts(x, place, size, tw);
    radix_of(size) == 16 ? join<16>(x, size / 4, tw) : join<8>(x, size / 2, tw);
}

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
            radix_of(e.ell) == 16 ? join_last<16>(out, x, e.ell / 4, e.forward) : join_last<8>(out, x, e.ell / 2, e.forward);
        }
    });
}
VL_EXPORT u64 vl_lanes() { return LANES; }  // for the tables of the above
