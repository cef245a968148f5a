// SHA-256 for Merkle leaves and nodes (protocol/merkle.py): leaf = tag ‖ salt ‖ column, big-endian words; node = tag ‖ l ‖ r.
//
// Columns run down a row-major codeword, so a thread takes a strip of columns, keeps their states, and goes down the rows
// eight at a time (one block). With x86's SHA instructions two columns are compressed at once to hide their latency.
#pragma once
#include "field.h"

#ifdef VL_CUDA
#define VL_CONST __constant__
#define VL_UNROLL _Pragma("unroll")  // the schedule of a block lives in registers only where its indices are constants
#else
#define VL_CONST static const
#define VL_UNROLL
#endif

VL_CONST u32 SHA_K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
    0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
    0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
    0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
    0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
VL_CONST u32 SHA_START[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

VL_FN u32 rotr(u32 x, int s) { return x >> s | x << (32 - s); }

VL_FN void sha_compress(u32* state, const u32* block) {
    u32 w[16], a = state[0], b = state[1], c = state[2], d = state[3];
    u32 e = state[4], f = state[5], g = state[6], h = state[7];
    VL_UNROLL
    for (int i = 0; i < 16; ++i) w[i] = block[i];
    VL_UNROLL
    for (int i = 0; i < 64; ++i) {
        if (i >= 16) {
            u32 x = w[(i + 1) & 15], y = w[(i + 14) & 15];
            w[i & 15] += w[(i + 9) & 15] + (rotr(x, 7) ^ rotr(x, 18) ^ x >> 3) + (rotr(y, 17) ^ rotr(y, 19) ^ y >> 10);
        }
        u32 t = h + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + (g ^ (e & (f ^ g))) + SHA_K[i] + w[i & 15];
        u32 s = (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) | (c & (a | b)));
        h = g, g = f, f = e, e = d + t, d = c, c = b, b = a, a = t + s;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

VL_FN void words_of(u32* out, const u8* bytes, int count) {  // big-endian
    for (int i = 0; i < count; ++i, bytes += 4)
        out[i] = (u32)bytes[0] << 24 | (u32)bytes[1] << 16 | (u32)bytes[2] << 8 | bytes[3];
}
VL_FN void bytes_of(u8* out, const u32* words, int count) {
    for (int i = 0; i < 4 * count; ++i) out[i] = (u8)(words[i / 4] >> (24 - 8 * (i % 4)));
}

#ifndef VL_CUDA
// What all messages share is computed once: the rounds on the tag's 8 words, and all words of a last block without rows.
static void sha_after_tag(u32* s, const u8* tag) {  // a … h after them
    u32 w[8];
    words_of(w, tag, 8);
    for (int i = 0; i < 8; ++i) s[i] = SHA_START[i];
    for (int i = 0; i < 8; ++i) {
        const u32 t = s[7] + (rotr(s[4], 6) ^ rotr(s[4], 11) ^ rotr(s[4], 25)) + (s[6] ^ (s[4] & (s[5] ^ s[6]))) + SHA_K[i] + w[i];
        const u32 u = (rotr(s[0], 2) ^ rotr(s[0], 13) ^ rotr(s[0], 22)) + ((s[0] & s[1]) | (s[2] & (s[0] | s[1])));
        for (int k = 7; k > 0; --k) s[k] = s[k - 1];
        s[4] += t, s[0] = t + u;
    }
}
static void sha_padding(u32* words, u64 bits) {  // the words of each round, its constant added
    u32 w[64] = {0x80000000u};
    w[14] = (u32)(bits >> 32), w[15] = (u32)bits;
    for (int i = 16; i < 64; ++i) {
        const u32 x = w[i - 15], y = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (rotr(x, 7) ^ rotr(x, 18) ^ x >> 3) + (rotr(y, 17) ^ rotr(y, 19) ^ y >> 10);
    }
    for (int i = 0; i < 64; ++i) words[i] = w[i] + SHA_K[i];
}
#endif

// Message block `index` (8 rows) of a column after its first block, with the padding of SHA-256 where the column ends; `bits` is
// the length of the message that it ends, tag and salt included.
VL_FN void column_block(u32* block, const u64* column, u64 rows, u64 stride, u64 index, u64 bits) {
    for (u64 k = 0; k < 8; ++k) {
        u64 row = 8 * index + k;
        u64 word = row < rows ? column[row * stride] : row == rows ? 1ULL << 63 : 0;
        if (k == 7 && row > rows) word = index == rows / 8 + (rows % 8 == 7) ? bits : word;
        block[2 * k] = (u32)(word >> 32);
        block[2 * k + 1] = (u32)word;
    }
}
VL_FN u64 column_blocks(u64 rows) { return rows / 8 + 1 + (rows % 8 == 7); }  // the length word needs a place after the 1

// Index j: takes `rows` words of column j, of which `before` came earlier, to its leaf digest if `out` is given, else to a state
// that a later call goes on from; then `rows` is a multiple of 8, as `before` is. `tag` is 32 bytes, `states` 8 words a column,
// laid out as suits the code that hashes.
struct HashColumn {
    const u64* codeword;
    const u8 *salts, *tag;
    u32* states;
    u8* out;
    u64 rows, before, stride;
    VL_FN u64 cost() const { return 8 * rows + 64; }
    VL_FN u64 blocks() const { return out ? column_blocks(rows) : rows / 8; }
    VL_FN u64 bits() const { return (64 + 8 * (before + rows)) * 8; }
    template <class V>
    VL_FN void at(u64, u64 j) const {
        for (u64 c = j; c < j + Lanes<V>::count; ++c) {
            u32 state[8], block[16];
            if (before) {
                for (u64 i = 0; i < 8; ++i) state[i] = states[i * stride + c];
            } else {
                for (int i = 0; i < 8; ++i) state[i] = SHA_START[i];
                words_of(block, tag, 8);
                words_of(block + 8, salts + 32 * c, 8);
                sha_compress(state, block);
            }
            for (u64 b = 0; b < blocks(); ++b) {
                column_block(block, codeword + c, rows, stride, b, bits());
                sha_compress(state, block);
            }
            if (out)
                bytes_of(out + 32 * c, state, 8);
            else
                for (u64 i = 0; i < 8; ++i) states[i * stride + c] = state[i];
        }
    }
};

struct HashPair {  // index j: node over digests 2j and 2j + 1
    const u8 *below, *tag;
    u8* out;
    VL_FN u64 cost() const { return 128; }
    template <class V>
    VL_FN void at(u64, u64 j) const {
        for (u64 c = j; c < j + Lanes<V>::count; ++c) {
            u32 state[8], block[16] = {};
            for (int i = 0; i < 8; ++i) state[i] = SHA_START[i];
            words_of(block, tag, 8);
            words_of(block + 8, below + 64 * c, 8);
            sha_compress(state, block);
            words_of(block, below + 64 * c + 32, 8);
            block[8] = 0x80000000u;
            for (int i = 9; i < 15; ++i) block[i] = 0;
            block[15] = 96 * 8;
            sha_compress(state, block);
            bytes_of(out + 32 * c, state, 8);
        }
    }
};
