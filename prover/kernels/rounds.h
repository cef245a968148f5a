// All rounds that a sumcheck of small tables has left, in one call: messages and challenges are made here, as protocol/channel.py
// makes them, so that a round costs its arithmetic and five blocks of SHA-256 and nothing of Python. CPU only.
#pragma once
#include <algorithm>

#include "fractions.h"
#include "sha256.h"

// SHA-256 of parts that arrive one after the other.
class Sha {
  public:
    Sha() { std::copy(SHA_START, SHA_START + 8, state_); }
    Sha& add(const u8* bytes, u64 count) {
        for (u64 i = 0; i < count; ++i) {
            last_[size_++ % 64] = bytes[i];
            if (size_ % 64 == 0) compress();
        }
        return *this;
    }
    Sha& number(u64 x, int bytes = 8) {  // big-endian, longer than a word with zeros before it
        u8 text[16];
        for (int i = 0; i < bytes; ++i) text[bytes - 1 - i] = i < 8 ? (u8)(x >> 8 * i) : 0;
        return add(text, bytes);
    }
    void digest(u8* out) {
        const u64 bits = 8 * size_;
        const u8 one = 0x80, zero = 0;
        add(&one, 1);
        while (size_ % 64 != 56) add(&zero, 1);
        number(bits);
        bytes_of(out, state_, 8);
    }

  private:
    void compress() {
        u32 block[16];
        words_of(block, last_, 16);
        sha_compress(state_, block);
    }
    u32 state_[8];
    u8 last_[64];
    u64 size_ = 0;
};

// What a caller gives of its channel, and what it gets back.
struct Talk {
    u64* said;  // the transcript's state (32 bytes), two words of each challenge, 32 bytes of each message
    const u8* tag;
    u64 tag_bytes;
    const u64* pads;  // those of g(1) and of g(2), four words a round
    u64 rounds, begun, first[4];  // the first round's g(1) and g(2), if it is begun

    u64* challenge(u64 round) const { return said + 4 + 2 * round; }
    u8* message(u64 round) const { return (u8*)(said + 4 + 2 * rounds + 4 * round); }

    // Sends g(1) and g(2), four words, under the pads of this round and draws its challenge.
    K<u64> say(u64 round, const u64* g) const {
        u8 *state = (u8*)said, *message = this->message(round);
        for (int i = 0; i < 4; ++i) {
            const u64 hidden = gsub(canon(g[i]), pads[4 * round + i]);
            for (int k = 0; k < 8; ++k) message[8 * i + k] = (u8)(hidden >> (56 - 8 * k));
        }
        const u8 absorbed = 1, drawn = 2, stream = 3;
        begin(absorbed).number(32).add(message, 32).digest(state);
        begin(drawn).number(17).number(2).number(GL_P, 9).digest(state);
        u64 *out = challenge(round), found = 0;
        for (u64 block = 0; found < 2; ++block) {
            u8 text[32];
            Sha().add(state, 32).add(&stream, 1).number(block).digest(text);
            for (int i = 0; i < 32 && found < 2; i += 8) {
                u64 word = 0;
                for (int k = 0; k < 8; ++k) word = word << 8 | text[i + k];
                if (word < GL_P) out[found++] = word;
            }
        }
        return K<u64>{out[0], out[1]};
    }

  private:
    Sha begin(u8 kind) const {
        Sha sha;
        sha.add((u8*)said, 32).add(&kind, 1).number(tag_bytes).add(tag, tag_bytes);
        return sha;
    }
};

static K<u64> kinverse(K<u64> x) {  // of one that is not zero: its conjugate over its norm, whose inverse is its power p - 2
    const u64 norm = gsub(gmul(x.a, x.a), gmul(gmul(x.b, x.b), (u64)7));
    u64 power = 1;
    for (int bit = 63; bit >= 0; --bit) {
        power = gmul(power, power);
        if ((GL_P - 2) >> bit & 1) power = gmul(power, norm);
    }
    return K<u64>{gmul(x.a, power), gmul(gsub((u64)0, x.b), power)};
}

struct SumcheckEnd {  // Field.sumcheck_end (protocol/field.py); scalars of K in two words each
    const u64* given;  // the point, eq's point, two messages a round
    u64* out;          // k, c, two coefficients a round
    u64 rounds, with_eq;
};

VL_EXPORT void vl_sumcheck_end(const SumcheckEnd* body, u64, u64) {
    const SumcheckEnd b = *body;
    const auto given = [&](u64 i) { return K<u64>{b.given[2 * i], b.given[2 * i + 1]}; };
    const auto put = [&](u64 i, K<u64> x) { b.out[2 * i] = x.a, b.out[2 * i + 1] = x.b; };
    const K<u64> one{1, 0};
    K<u64> factor = one, total{0, 0};
    for (u64 i = b.rounds; i--;) {
        const K<u64> r = given(i), square = kmul(r, r), l1 = ksub(kadd(r, r), square), l2 = kmulf(ksub(square, r), (u64)(GL_P / 2 + 1));
        K<u64> k = ksub(ksub(one, l1), l2), w1k = k;
        if (b.with_eq) {
            const K<u64> e = given(b.rounds + i);
            k = kmul(k, kinverse(ksub(one, e)));
            w1k = kmul(k, e);
        }
        const K<u64> c1 = kmul(ksub(l1, w1k), factor), c2 = kmul(l2, factor);
        total = kadd(total, kmul_add(c1, given(2 * b.rounds + 2 * i), c2, given(2 * b.rounds + 2 * i + 1)));
        put(2 + 2 * i, c1), put(3 + 2 * i, c2);
        factor = kmul(factor, k);
    }
    put(0, factor), put(1, total);
}

// The rounds of a level of the tree of fractions (fractions.h) over tables of 2^rounds entries without tiles. The weights of a round
// are eq over as many of the point's last coordinates as variables are left behind it, in tiles of at most 2^tile_bits.
struct FractionRounds {
    Talk talk;
    u64* cells[8];  // p0, p1, q0, q1, folded in place: entry 0 is the value at the bound point
    const u64 *point0, *point1;
    u64 tile_bits, mu0, mu1, lam0, lam1;
};

VL_EXPORT void vl_fraction_rounds(const FractionRounds* given, u64, u64) {
    const FractionRounds f = *given;
    const u64 rounds = f.talk.rounds, within = std::min(rounds - 1, f.tile_bits), above = rounds - 1 - within;
    std::vector<u64> tables((4ULL << within) + (4ULL << above));
    u64 *low0 = tables.data(), *low1 = low0 + (2ULL << within), *high0 = low1 + (2ULL << within), *high1 = high0 + (2ULL << above);
    low0[1] = high0[1] = 1;
    const EqSuffixes low{f.point0 + above, f.point1 + above, low0, low1}, high{f.point0, f.point1, high0, high1};
    vl_eq_suffixes(&low, within, 1), vl_eq_suffixes(&high, above, 1);
    u64 g[4];
    const auto prepare = [&](auto& body, u64 left) {  // a body's words, while `left` variables are to be bound
        const u64 bits = std::min(left - 1, f.tile_bits), size = 1ULL << bits, tiles = 1ULL << (left - 1 - bits);
        for (int k = 0; k < 8; ++k) body.cells[k] = f.cells[k];
        for (int k = 0; k < 4; ++k) body.table[k].x0 = f.cells[2 * k], body.table[k].x1 = f.cells[2 * k + 1];
        body.lo0 = low0 + size, body.lo1 = low1 + size, body.hi0 = high0 + tiles, body.hi1 = high1 + tiles;
        body.out = g, body.size = size, body.half = tiles;
        body.mu0 = f.mu0, body.mu1 = f.mu1, body.lam0 = f.lam0, body.lam1 = f.lam1;
    };
    if (f.talk.begun) {
        std::copy(f.talk.first, f.talk.first + 4, g);
    } else {
        FractionSum<false> body{};
        prepare(body, rounds);
        fraction_sum(body, body.half, body.size);
    }
    FractionSum<true> body{};
    for (u64 left = rounds; left--;) {
        const K<u64> r = f.talk.say(rounds - 1 - left, g);
        if (left) {
            prepare(body, left);
            body.r0 = r.a, body.r1 = r.b;
            fraction_sum(body, body.half, body.size);
        } else {
            for (int k = 0; k < 8; k += 2) {
                u64 *x0 = f.cells[k], *x1 = f.cells[k + 1];
                run_map(FoldTop{x0, x1, x0 + 1, x1 + 1, x0, x1, r.a, r.b}, 1, 1);
            }
        }
    }
}

// One product of a batch; `size` entries a table, which begins to run after `waiting` rounds.
struct Summand {
    u64 *a0, *a1, *b0, *b1;
    u64 size, waiting, coef0, coef1, total0, total1;  // total: Σ A·B, if it waits
};

// The rounds of a batch of products (prover/argument/batch.py): Σ coef·Σ A·B over those that run, and (1 - X)·Π(1 - r)·Σ coef·total over
// those that wait; one that begins has its coefficient times Π(1 - r) of the rounds before.
struct BatchRounds {
    Talk talk;
    Summand* summands;
    u64 count, passed0, passed1, waiting0, waiting1;
};

VL_EXPORT void vl_batch_rounds(const BatchRounds* given, u64, u64) {
    const BatchRounds b = *given;
    K<u64> passed{b.passed0, b.passed1}, waiting{b.waiting0, b.waiting1};
    std::vector<ProductItem> items(b.count);
    u64 g[4];
    std::copy(b.talk.first, b.talk.first + 4, g);
    for (u64 round = 0; round < b.talk.rounds; ++round) {
        const K<u64> r = b.talk.say(round, g);
        passed = kmul(passed, ksub(K<u64>{1, 0}, r));
        u64 running = 0;
        for (u64 i = 0; i < b.count; ++i) {
            Summand& x = b.summands[i];
            const bool folds = !x.waiting;
            if (x.waiting && --x.waiting) continue;
            if (folds) {
                x.size /= 2;
            } else {
                const K<u64> coef{x.coef0, x.coef1};
                waiting = ksub(waiting, kmul(coef, K<u64>{x.total0, x.total1}));
                const K<u64> now = kmul(coef, passed);
                x.coef0 = now.a, x.coef1 = now.b;
            }
            items[running++] = ProductItem{x.a0, x.a1, x.b0, x.b1, x.size, folds, x.coef0, x.coef1};
        }
        const ProductRounds products{items.data(), g, r.a, r.b};
        vl_product_rounds(&products, running, 1);
        const K<u64> two = ksub(K<u64>{g[2], g[3]}, kmul(passed, waiting));
        g[2] = two.a, g[3] = two.b;
    }
}
