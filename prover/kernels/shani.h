// SHA-256 of columns and nodes with x86's SHA instructions, two messages at a time; chosen at run time by CPUID.
#pragma once
#if defined(__x86_64__) && !defined(VL_CUDA)
#define VL_SHANI 1
#include <cpuid.h>
#include <immintrin.h>

#define SHA_TARGET __attribute__((target("sha,sse4.1,ssse3")))

static bool has_sha() {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 29 & 1);
}

struct ShaState {
    __m128i abef, cdgh;
};

static inline SHA_TARGET void sha_two(ShaState& s, ShaState& t, __m128i* m, __m128i* n) {
    const ShaState s0 = s, t0 = t;
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
        const int k = i & 3, k1 = (i + 1) & 3, k2 = (i + 2) & 3, k3 = (i + 3) & 3;
        if (i >= 4) {
            m[k] = _mm_sha256msg2_epu32(
                _mm_add_epi32(_mm_sha256msg1_epu32(m[k], m[k1]), _mm_alignr_epi8(m[k3], m[k2], 4)), m[k3]);
            n[k] = _mm_sha256msg2_epu32(
                _mm_add_epi32(_mm_sha256msg1_epu32(n[k], n[k1]), _mm_alignr_epi8(n[k3], n[k2], 4)), n[k3]);
        }
        const __m128i round = _mm_loadu_si128((const __m128i*)(SHA_K + 4 * i));
        __m128i x = _mm_add_epi32(m[k], round), y = _mm_add_epi32(n[k], round);
        s.cdgh = _mm_sha256rnds2_epu32(s.cdgh, s.abef, x);
        t.cdgh = _mm_sha256rnds2_epu32(t.cdgh, t.abef, y);
        s.abef = _mm_sha256rnds2_epu32(s.abef, s.cdgh, _mm_shuffle_epi32(x, 0x0E));
        t.abef = _mm_sha256rnds2_epu32(t.abef, t.cdgh, _mm_shuffle_epi32(y, 0x0E));
    }
    s.abef = _mm_add_epi32(s.abef, s0.abef), s.cdgh = _mm_add_epi32(s.cdgh, s0.cdgh);
    t.abef = _mm_add_epi32(t.abef, t0.abef), t.cdgh = _mm_add_epi32(t.cdgh, t0.cdgh);
}

static inline SHA_TARGET __m128i swap_bytes(const u8* at) {
    const __m128i order = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    return _mm_shuffle_epi8(_mm_loadu_si128((const __m128i*)at), order);
}

static inline ShaState sha_start() {
    return ShaState{_mm_set_epi32((int)SHA_START[0], (int)SHA_START[1], (int)SHA_START[4], (int)SHA_START[5]),
                    _mm_set_epi32((int)SHA_START[2], (int)SHA_START[3], (int)SHA_START[6], (int)SHA_START[7])};
}

static inline void sha_digest(u8* out, const ShaState& s) {
    u32 ef[4], gh[4];
    _mm_storeu_si128((__m128i*)ef, s.abef);
    _mm_storeu_si128((__m128i*)gh, s.cdgh);
    const u32 words[8] = {ef[3], ef[2], gh[3], gh[2], ef[1], ef[0], gh[1], gh[0]};
    bytes_of(out, words, 8);
}

static const u64 SHA_STRIP = 512;  // states (32 bytes each) and eight rows of a strip fit the first cache

static SHA_TARGET void hash_strip(const HashColumn& h, u64 begin, u64 width) {  // width even, at most SHA_STRIP
    alignas(64) ShaState state[SHA_STRIP];
    u64 one[SHA_STRIP], zero[SHA_STRIP], bits[SHA_STRIP];
    for (u64 c = 0; c < width; ++c) one[c] = 1ULL << 63, zero[c] = 0, bits[c] = (64 + 8 * h.rows) * 8;
    for (u64 c = 0; c < width; c += 2) {
        __m128i m[4], n[4];
        for (int k = 0; k < 2; ++k) {
            m[k] = n[k] = swap_bytes(h.tag + 16 * k);
            m[2 + k] = swap_bytes(h.salts + 32 * (begin + c) + 16 * k);
            n[2 + k] = swap_bytes(h.salts + 32 * (begin + c + 1) + 16 * k);
        }
        state[c] = state[c + 1] = sha_start();
        sha_two(state[c], state[c + 1], m, n);
    }
    const u64 blocks = column_blocks(h.rows);
    for (u64 b = 0; b < blocks; ++b) {
        const u64* row[8];
        for (u64 k = 0; k < 8; ++k) {
            u64 r = 8 * b + k;
            row[k] = r < h.rows ? h.codeword + r * h.stride + begin : r == h.rows ? one : zero;
        }
        if (b == blocks - 1) row[7] = bits;
        for (u64 c = 0; c < width; c += 2) {
            __m128i m[4], n[4];
            for (int k = 0; k < 4; ++k) {
                __m128i x = _mm_loadu_si128((const __m128i*)(row[2 * k] + c));
                __m128i y = _mm_loadu_si128((const __m128i*)(row[2 * k + 1] + c));
                m[k] = _mm_shuffle_epi32(_mm_unpacklo_epi64(x, y), 0xB1);  // high word of each value first
                n[k] = _mm_shuffle_epi32(_mm_unpackhi_epi64(x, y), 0xB1);
            }
            sha_two(state[c], state[c + 1], m, n);
        }
    }
    for (u64 c = 0; c < width; ++c) sha_digest(h.out + 32 * (begin + c), state[c]);
}

static SHA_TARGET void hash_two_pairs(const HashPair& h, u64 j) {
    ShaState s = sha_start(), t = s;
    const u8 *a = h.below + 64 * j, *b = a + 64;
    __m128i m[4], n[4];
    for (int k = 0; k < 2; ++k) {
        m[k] = n[k] = swap_bytes(h.tag + 16 * k);
        m[2 + k] = swap_bytes(a + 16 * k);
        n[2 + k] = swap_bytes(b + 16 * k);
    }
    sha_two(s, t, m, n);
    for (int k = 0; k < 2; ++k) {
        m[k] = swap_bytes(a + 32 + 16 * k);
        n[k] = swap_bytes(b + 32 + 16 * k);
    }
    m[2] = n[2] = _mm_set_epi32(0, 0, 0, (int)0x80000000u);
    m[3] = n[3] = _mm_set_epi32(96 * 8, 0, 0, 0);
    sha_two(s, t, m, n);
    sha_digest(h.out + 32 * j, s);
    sha_digest(h.out + 32 * (j + 1), t);
}
#endif
