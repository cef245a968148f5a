// Rows of messages to codewords (protocol/code.py): one inverse transform and, for each coset, a forward one, whose words lie side by
// side in the end. The scaling by powers of the coset's shift goes into a forward transform's first pass. At rate 1/4 vectors do it another
// way (cosets.h). CPU only.
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
    u64* out = e.out + row * ell * e.cosets;
    for (u64 c = 0; c < e.cosets; ++c) last_pass(values + c * ell, ell, e.forward);
    for (u64 j = 0; j < ell; ++j)
        for (u64 c = 0; c < e.cosets; ++c) out[e.cosets * j + c] = values[c * ell + j];
}

VL_EXPORT void vl_encode(const Encode* given, u64 rows, u64) {
    const Encode e = *given;
    parallel(rows, rows * e.ell * e.cosets, [&](unsigned, u64 lo, u64 hi) {
        std::vector<u64> coefs(e.ell), values(e.ell * e.cosets);
        for (u64 row = lo; row < hi; ++row) encode_row(e, row, coefs.data(), values.data());
    });
}
