// Rows of messages to codewords (protocol/code.py): one inverse transform and, for each coset, a forward one, whose words lie side by
// side in the end. The scaling by powers of the coset's shift goes into a forward transform's first pass, and where vectors allow
// it the last pass of all four puts the words in their places: memory is passed over as rarely as the transforms do. CPU only.
#pragma once
#include <algorithm>
#include <cstring>

struct Encode {
    const u64 *messages, *rho;  // (rows, ell), (rows, blinding)
    u64* out;                   // (rows, cosets·ell)
    const u64 *inverse, *forward;
    const u64 *scale;   // (cosets, ell): s_c^k / ell at the bit-reversed place of k
    const u64 *powers;  // t_c = s_c^ell
    const u64 *slots;   // bit-reversed places of k < min(blinding, ell)
    u64 ell, cosets, blinding;
};

#ifdef VL_WIDE
// The same lane of four vectors becomes four neighbours. A codeword is written once and read much later, so it goes past the caches:
// otherwise the memory it overwrites would be read first.
#ifdef VL_512
static VL_FN void store_four(u64* out, const V8* x) {
    __m512i v[4], t[4];
    for (int k = 0; k < 4; k += 2) {
        v[k / 2] = _mm512_unpacklo_epi64(x[k].v, x[k + 1].v), v[2 + k / 2] = _mm512_unpackhi_epi64(x[k].v, x[k + 1].v);
    }
    for (int k = 0; k < 4; k += 2) {
        t[k] = _mm512_shuffle_i64x2(v[k], v[k + 1], 0x44), t[k + 1] = _mm512_shuffle_i64x2(v[k], v[k + 1], 0xEE);
    }
    store_past(out, V8{_mm512_shuffle_i64x2(t[0], t[2], 0x88)}), store_past(out + 8, V8{_mm512_shuffle_i64x2(t[0], t[2], 0xDD)});
    store_past(out + 16, V8{_mm512_shuffle_i64x2(t[1], t[3], 0x88)}), store_past(out + 24, V8{_mm512_shuffle_i64x2(t[1], t[3], 0xDD)});
}
#else
static VL_FN void store_four(u64* out, const V4* x) {
    V4 t[4] = {x[0], x[1], x[2], x[3]};
    transpose4(t);
    for (int k = 0; k < 4; ++k) store_past(out + 4 * k, t[k]);
}
#endif

// The last pass of four cosets' transforms, of radix 4 or 2
template <u64 RADIX>
static void last_pass_of_four(u64* out, const u64* x, u64 ell, const u64* tw) {
    const u64 q = ell / RADIX;
    for (u64 j = 0; j < q; j += Lanes<VL_WIDE>::count) {
        VL_WIDE made[RADIX][4], w[RADIX - 1];
        for (u64 k = 0; k + 1 < RADIX; ++k) w[k] = load<VL_WIDE>(tw + k * q + j);
        for (u64 c = 0; c < 4; ++c) {
            VL_WIDE r[RADIX];
            for (u64 k = 0; k < RADIX; ++k) r[k] = load<VL_WIDE>(x + c * ell + k * q + j);
            if constexpr (RADIX == 4) {
                dit4(r[0], r[1], r[2], r[3], w[0], w[1], w[2]);
            } else {
                const VL_WIDE a = r[0], t = gmul(r[1], w[0]);
                r[0] = gadd(a, t), r[1] = gsub(a, t);
            }
            for (u64 k = 0; k < RADIX; ++k) made[k][c] = r[k];
        }
        for (u64 k = 0; k < RADIX; ++k) store_four(out + 4 * (k * q + j), made[k]);
    }
    _mm_sfence();
}
#endif

// out[cosets·j + c] = the c-th transform's j-th word, `x` holding all transforms but for their last passes
static void finish(u64* out, u64* x, const Encode& e) {
    const u64 ell = e.ell, cosets = e.cosets;
#ifdef VL_WIDE
    const u64 radix = first_radix(ell);
    if (cosets == 4 && radix > 1 && ell / radix % Lanes<VL_WIDE>::count == 0 && (u64)out % sizeof(VL_WIDE) == 0) {
        radix == 4 ? last_pass_of_four<4>(out, x, ell, e.forward + 8) : last_pass_of_four<2>(out, x, ell, e.forward + 8);
        return;
    }
#endif
    for (u64 c = 0; c < cosets; ++c) last_pass(x + c * ell, ell, e.forward);
    u64 j = 0;
#ifdef VL_WIDE
    if (cosets == 4 && (u64)out % sizeof(VL_WIDE) == 0) {
        for (; j + Lanes<VL_WIDE>::count <= ell; j += Lanes<VL_WIDE>::count) {
            VL_WIDE v[4];
            for (u64 c = 0; c < 4; ++c) v[c] = load<VL_WIDE>(x + c * ell + j);
            store_four(out + 4 * j, v);
        }
        _mm_sfence();
    }
#endif
    for (; j < ell; ++j)
        for (u64 c = 0; c < cosets; ++c) out[cosets * j + c] = x[c * ell + j];
}

static void encode_row(const Encode& e, u64 row, u64* coefs, u64* values) {
    const u64 ell = e.ell, slots = std::min(e.blinding, ell);
    const u64* rho = e.rho + row * e.blinding;
    std::memcpy(coefs, e.messages + row * ell, ell * 8);
    inverse_transform(coefs, ell, e.inverse);
    std::vector<u64> plain(slots);
    for (u64 k = 0; k < slots; ++k) plain[k] = coefs[e.slots[k]];
    for (u64 c = 0; c < e.cosets; ++c) {
        u64 t = e.powers[c], factor = gmul(gsub(t, (u64)1), ell);  // coefs are ell times too large
        for (u64 k = 0; k < slots; ++k) {
            u64 sum = 0, at = k + (e.blinding - 1 - k) / ell * ell;
            for (;; at -= ell) {  // rho modulo X^ell - t
                sum = gadd(gmul(sum, t), rho[at]);
                if (at < ell) break;
            }
            coefs[e.slots[k]] = gadd(plain[k], gmul(sum, factor));
        }
        forward_blocks<true>(values + c * ell, ell, e.forward, coefs, e.scale + c * ell);
    }
    finish(e.out + row * ell * e.cosets, values, e);
}

VL_EXPORT void vl_encode(const Encode* given, u64 rows, u64) {
    const Encode e = *given;
    parallel(rows, rows * e.ell * e.cosets, [&](unsigned, u64 lo, u64 hi) {
        std::vector<u64> coefs(e.ell), values(e.ell * e.cosets);
        for (u64 row = lo; row < hi; ++row) encode_row(e, row, coefs.data(), values.data());
    });
}
