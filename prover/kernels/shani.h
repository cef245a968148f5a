// SHA-256 of columns and nodes with x86's SHA instructions, two messages at a time, on processors without AVX-512 (sha16.h);
// chosen at run time by CPUID.
//
// These instructions exist in the old encoding alone, which keeps the upper halves of vector registers: while these are in use,
// some Intel processors take more than a hundred times as long for each (docs/log.md, the section on Intel). So everything here is
// compiled without AVX; a compiler clears the halves before it calls such a function. <immintrin.h> cannot be inlined into one,
// hence vectors of the language and three builtins that GCC and Clang share.
#pragma once
#if defined(__x86_64__) && !defined(VL_512) && !defined(VL_CUDA)
#define VL_SHA_LANES 2
#include <cpuid.h>

#include <cstring>

#define SHA_TARGET __attribute__((target("sha,sse4.1,ssse3,no-avx")))
#ifdef __clang__
#define SHA_PICK(x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
#define SHA_PICK(x, y, ...) __builtin_shuffle(x, y, decltype(x){__VA_ARGS__})
#endif

typedef u32 Quad __attribute__((vector_size(16)));
typedef u8 Octets __attribute__((vector_size(16)));
typedef int Signed __attribute__((vector_size(16)));  // what the builtins are declared with

static bool has_sha() {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 29 & 1);
}

static inline SHA_TARGET Quad quad(const void* at) {
    Quad x;
    std::memcpy(&x, at, 16);
    return x;
}
static inline SHA_TARGET Quad two_rounds(Quad cdgh, Quad abef, Quad words) {
    return (Quad)__builtin_ia32_sha256rnds2((Signed)cdgh, (Signed)abef, (Signed)words);
}
static inline SHA_TARGET Quad next_words(Quad w0, Quad w1, Quad w2, Quad w3) {  // words t … t+3 from the sixteen before
    Quad partial = (Quad)__builtin_ia32_sha256msg1((Signed)w0, (Signed)w1) + SHA_PICK(w2, w3, 1, 2, 3, 4);
    return (Quad)__builtin_ia32_sha256msg2((Signed)partial, (Signed)w3);
}
static inline SHA_TARGET Quad big_endian(const void* at) {  // four words
    Octets x = (Octets)quad(at);
    return (Quad)SHA_PICK(x, x, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12);
}

struct ShaState {
    Quad abef, cdgh;
};

static inline SHA_TARGET ShaState sha_state(const u32* a) {
    return ShaState{Quad{a[5], a[4], a[1], a[0]}, Quad{a[7], a[6], a[3], a[2]}};
}

// A block of each message. FIRST: groups of four rounds that were made before, which left `begun`. KNOWN: the words of all rounds with
// their constants are given, the same for both.
template <int FIRST, bool KNOWN>
static inline SHA_TARGET void sha_block(ShaState& s, ShaState& t, Quad* m, Quad* n, const u32* begun, const u32* known) {
    const ShaState s0 = s, t0 = t;
    if (FIRST) s = t = sha_state(begun);
#pragma GCC unroll 16
    for (int i = FIRST; i < 16; ++i) {
        const int k = i & 3, k1 = (i + 1) & 3, k2 = (i + 2) & 3, k3 = (i + 3) & 3;
        if (!KNOWN && i >= 4) {
            m[k] = next_words(m[k], m[k1], m[k2], m[k3]);
            n[k] = next_words(n[k], n[k1], n[k2], n[k3]);
        }
        const Quad round = quad((KNOWN ? known : SHA_K) + 4 * i);
        const Quad x = KNOWN ? round : m[k] + round, y = KNOWN ? round : n[k] + round;
        s.cdgh = two_rounds(s.cdgh, s.abef, x);
        t.cdgh = two_rounds(t.cdgh, t.abef, y);
        s.abef = two_rounds(s.abef, s.cdgh, SHA_PICK(x, x, 2, 3, 2, 3));
        t.abef = two_rounds(t.abef, t.cdgh, SHA_PICK(y, y, 2, 3, 2, 3));
    }
    s.abef += s0.abef, s.cdgh += s0.cdgh;
    t.abef += t0.abef, t.cdgh += t0.cdgh;
}

static inline SHA_TARGET void sha_two(ShaState& s, ShaState& t, Quad* m, Quad* n) { sha_block<0, false>(s, t, m, n, nullptr, nullptr); }

static inline SHA_TARGET void sha_digest(u8* out, const ShaState& s) {
    const Quad upper = SHA_PICK(s.abef, s.cdgh, 3, 2, 7, 6), lower = SHA_PICK(s.abef, s.cdgh, 1, 0, 5, 4);
    const Quad a = big_endian(&upper), e = big_endian(&lower);
    std::memcpy(out, &a, 16);
    std::memcpy(out + 16, &e, 16);
}

static const u64 SHA_STRIP = 512;  // states (32 bytes each) and eight rows of a strip fit the first cache

// width even, at most SHA_STRIP; `blocks` = h.blocks()
static SHA_TARGET VL_APART void hash_strip(const HashColumn& h, u64 begin, u64 width, u64 blocks) {
    const u64 length = (64 + 8 * (h.before + h.rows)) * 8;
    ShaState* saved = (ShaState*)(h.states + 8 * begin);
    alignas(64) ShaState state[SHA_STRIP];
    u64 one[SHA_STRIP], zero[SHA_STRIP], bits[SHA_STRIP];
    u32 begun[8], padding[64];
    sha_after_tag(begun, h.tag);
    sha_padding(padding, length);
    for (u64 c = 0; c < width; ++c) one[c] = 1ULL << 63, zero[c] = 0, bits[c] = length;
    if (h.before) std::memcpy(state, saved, width * sizeof(ShaState));
    for (u64 c = h.before ? width : 0; c < width; c += 2) {
        Quad m[4], n[4];
        for (int k = 0; k < 2; ++k) {
            m[k] = n[k] = big_endian(h.tag + 16 * k);
            m[2 + k] = big_endian(h.salts + 32 * (begin + c) + 16 * k);
            n[2 + k] = big_endian(h.salts + 32 * (begin + c + 1) + 16 * k);
        }
        state[c] = state[c + 1] = sha_state(SHA_START);
        sha_block<2, false>(state[c], state[c + 1], m, n, begun, nullptr);
    }
    for (u64 b = 0; b < blocks; ++b) {
        if (8 * b == h.rows) {  // the last, without rows
            for (u64 c = 0; c < width; c += 2) sha_block<0, true>(state[c], state[c + 1], nullptr, nullptr, nullptr, padding);
            break;
        }
        const u64* row[8];
        for (u64 k = 0; k < 8; ++k) {
            u64 r = 8 * b + k;
            row[k] = r < h.rows ? h.codeword + r * h.stride + begin : r == h.rows ? one : zero;
        }
        if (h.out && b == blocks - 1) row[7] = bits;
        for (u64 c = 0; c < width; c += 2) {
            Quad m[4], n[4];
            for (int k = 0; k < 4; ++k) {
                const Quad x = quad(row[2 * k] + c), y = quad(row[2 * k + 1] + c);
                m[k] = SHA_PICK(x, y, 1, 0, 5, 4);  // high word of each value first
                n[k] = SHA_PICK(x, y, 3, 2, 7, 6);
            }
            sha_two(state[c], state[c + 1], m, n);
        }
    }
    if (!h.out) std::memcpy(saved, state, width * sizeof(ShaState));
    for (u64 c = 0; h.out && c < width; ++c) sha_digest(h.out + 32 * (begin + c), state[c]);
}

static SHA_TARGET VL_APART void hash_nodes(const HashPair& h, u64 j, const u32* begun) {
    ShaState s = sha_state(SHA_START), t = s;
    const u8 *a = h.below + 64 * j, *b = a + 64;
    Quad m[4], n[4];
    for (int k = 0; k < 2; ++k) {
        m[k] = n[k] = big_endian(h.tag + 16 * k);
        m[2 + k] = big_endian(a + 16 * k);
        n[2 + k] = big_endian(b + 16 * k);
    }
    sha_block<2, false>(s, t, m, n, begun, nullptr);
    for (int k = 0; k < 2; ++k) {
        m[k] = big_endian(a + 32 + 16 * k);
        n[k] = big_endian(b + 32 + 16 * k);
    }
    m[2] = n[2] = Quad{0x80000000u, 0, 0, 0};
    m[3] = n[3] = Quad{0, 0, 0, 96 * 8};
    sha_two(s, t, m, n);
    sha_digest(h.out + 32 * j, s);
    sha_digest(h.out + 32 * (j + 1), t);
}
#endif
