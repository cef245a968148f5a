// SHA-256 of sixteen columns or nodes at a time, one in each 32-bit lane of AVX-512 registers.
//
// A block takes 1,616 instructions for sixteen messages, about 50 cycles each; the SHA instructions need 64 at best and are
// not on every processor with AVX-512. A column's words are numbers already, so only salts, tags and digests are swapped.
#pragma once
#ifdef VL_512
#define VL_SHA_LANES 16

typedef __m512i Words;  // one 32-bit word of each of sixteen messages

template <int A, int B, int C>
static VL_FN Words rotations(Words x) {
    return _mm512_ternarylogic_epi32(_mm512_ror_epi32(x, A), _mm512_ror_epi32(x, B), _mm512_ror_epi32(x, C), 0x96);
}
template <int A, int B, int C>
static VL_FN Words rotations_shift(Words x) {
    return _mm512_ternarylogic_epi32(_mm512_ror_epi32(x, A), _mm512_ror_epi32(x, B), _mm512_srli_epi32(x, C), 0x96);
}

// One block. state[8]; w[16] is overwritten. FIRST: rounds that were made before, which left `begun`. KNOWN: no words, but those of all
// rounds with their constants, the same for all messages.
template <int FIRST, bool KNOWN>
static VL_FN void sha_block(Words* state, Words* w, const u32* begun, const u32* known_words) {
    Words s[8];
    for (int i = 0; i < 8; ++i) s[i] = FIRST ? _mm512_set1_epi32((int)begun[i]) : state[i];
#pragma GCC unroll 64
    for (int i = FIRST; i < 64; ++i) {
        Words &a = s[(64 - i) & 7], &b = s[(65 - i) & 7], &c = s[(66 - i) & 7], &d = s[(67 - i) & 7];
        Words &e = s[(68 - i) & 7], &f = s[(69 - i) & 7], &g = s[(70 - i) & 7], &h = s[(71 - i) & 7];
        if (!KNOWN && i >= 16) {
            const Words more = _mm512_add_epi32(w[(i + 9) & 15], rotations_shift<7, 18, 3>(w[(i + 1) & 15]));
            w[i & 15] = _mm512_add_epi32(_mm512_add_epi32(w[i & 15], more), rotations_shift<17, 19, 10>(w[(i + 14) & 15]));
        }
        const Words choice = _mm512_ternarylogic_epi32(e, f, g, 0xCA), most = _mm512_ternarylogic_epi32(a, b, c, 0xE8);
        const Words known = KNOWN ? _mm512_add_epi32(h, _mm512_set1_epi32((int)known_words[i]))
                                  : _mm512_add_epi32(_mm512_add_epi32(h, w[i & 15]), _mm512_set1_epi32((int)SHA_K[i]));
        const Words t = _mm512_add_epi32(known, _mm512_add_epi32(choice, rotations<6, 11, 25>(e)));
        d = _mm512_add_epi32(d, t);
        h = _mm512_add_epi32(t, _mm512_add_epi32(most, rotations<2, 13, 22>(a)));
    }
    for (int i = 0; i < 8; ++i) state[i] = _mm512_add_epi32(state[i], s[i]);
}
static VL_FN void sha_sixteen(Words* state, Words* w) { sha_block<0, false>(state, w, nullptr, nullptr); }

static VL_FN Words swap_words(Words x) {
    return _mm512_shuffle_epi8(x, _mm512_set4_epi32(0x0c0d0e0f, 0x08090a0b, 0x04050607, 0x00010203));
}
static VL_FN Words lane_offsets(int stride) {  // in bytes
    return _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(stride));
}
// big-endian words at + 4i of messages that lie `stride` bytes apart
static VL_FN void gather_words(Words* out, const u8* at, int stride, int count) {
    for (int i = 0; i < count; ++i) out[i] = swap_words(_mm512_i32gather_epi32(lane_offsets(stride), at + 4 * i, 1));
}
static VL_FN void spread_words(Words* out, const u8* at, int count) {  // the same ones for all
    u32 words[8];
    words_of(words, at, count);
    for (int i = 0; i < count; ++i) out[i] = _mm512_set1_epi32((int)words[i]);
}
static VL_FN void start_states(Words* state) {
    for (int i = 0; i < 8; ++i) state[i] = _mm512_set1_epi32((int)SHA_START[i]);
}
static VL_FN void put_digests(u8* out, const Words* state) {
    for (int i = 0; i < 8; ++i) _mm512_i32scatter_epi32(out + 4 * i, lane_offsets(32), swap_words(state[i]), 1);
}

static const u64 SHA_STRIP = 512;  // states (32 bytes each) and eight rows of a strip fit the first cache

static bool has_sha() { return true; }

// width a multiple of 16, at most SHA_STRIP; `blocks` = h.blocks()
static VL_APART void hash_strip(const HashColumn& h, u64 begin, u64 width, u64 blocks) {
    const Words upper = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    const Words lower = _mm512_sub_epi32(upper, _mm512_set1_epi32(1));
    Words state[SHA_STRIP / 16][8], w[16];
    u32 begun[8], padding[64];
    sha_after_tag(begun, h.tag);
    sha_padding(padding, h.bits());
    for (u64 c = 0; c < width; c += 16) {
        if (h.before) {
            for (int i = 0; i < 8; ++i) state[c / 16][i] = _mm512_loadu_si512(h.states + i * h.stride + begin + c);
            continue;
        }
        start_states(state[c / 16]);
        spread_words(w, h.tag, 8);
        gather_words(w + 8, h.salts + 32 * (begin + c), 32, 8);
        sha_block<8, false>(state[c / 16], w, begun, nullptr);
    }
    for (u64 b = 0; b < blocks; ++b) {
        if (8 * b == h.rows) {  // the last, without rows
            for (u64 c = 0; c < width; c += 16) sha_block<0, true>(state[c / 16], w, nullptr, padding);
            break;
        }
        for (u64 c = 0; c < width; c += 16) {
            for (u64 k = 0; k < 8; ++k) {
                const u64 row = 8 * b + k;
                if (row < h.rows) {
                    const u64* at = h.codeword + row * h.stride + begin + c;
                    const Words x = _mm512_loadu_si512(at), y = _mm512_loadu_si512(at + 8);
                    w[2 * k] = _mm512_permutex2var_epi32(x, upper, y);
                    w[2 * k + 1] = _mm512_permutex2var_epi32(x, lower, y);
                } else {  // a one, zeros, the length in bits
                    const bool last = b == blocks - 1 && k == 7;
                    w[2 * k] = _mm512_set1_epi32(row == h.rows ? (int)0x80000000u : 0);
                    w[2 * k + 1] = _mm512_set1_epi32(last ? (int)h.bits() : 0);
                }
            }
            sha_sixteen(state[c / 16], w);
        }
    }
    for (u64 c = 0; c < width; c += 16) {
        if (h.out)
            put_digests(h.out + 32 * (begin + c), state[c / 16]);
        else
            for (int i = 0; i < 8; ++i) _mm512_storeu_si512(h.states + i * h.stride + begin + c, state[c / 16][i]);
    }
}

static VL_APART void hash_nodes(const HashPair& h, u64 j, const u32* begun) {
    Words state[8], w[16];
    start_states(state);
    spread_words(w, h.tag, 8);
    gather_words(w + 8, h.below + 64 * j, 64, 8);
    sha_block<8, false>(state, w, begun, nullptr);
    gather_words(w, h.below + 64 * j + 32, 64, 8);
    for (int i = 8; i < 16; ++i) w[i] = _mm512_setzero_si512();
    w[8] = _mm512_set1_epi32((int)0x80000000u);
    w[15] = _mm512_set1_epi32(96 * 8);
    sha_sixteen(state, w);
    put_digests(h.out + 32 * j, state);
}
#endif
