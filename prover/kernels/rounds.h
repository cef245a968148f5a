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
    u8* state;  // of the transcript, 32 bytes
    const u8* tag;
    u64 tag_bytes;
    const u64* pads;  // those of g(1) and of g(2), four words a round
    u8* messages;     // 32 bytes a round
    u64* challenges;  // two words a round
    u64 rounds;

    // Sends g(1) and g(2), four words, under the pads of this round and draws its challenge.
    K<u64> say(u64 round, const u64* g) const {
        u8* message = messages + 32 * round;
        for (int i = 0; i < 4; ++i) {
            const u64 hidden = gsub(canon(g[i]), pads[4 * round + i]);
            for (int k = 0; k < 8; ++k) message[8 * i + k] = (u8)(hidden >> (56 - 8 * k));
        }
        const u8 absorbed = 1, drawn = 2, stream = 3;
        begin(absorbed).number(32).add(message, 32).digest(state);
        begin(drawn).number(17).number(2).number(GL_P, 9).digest(state);
        u64 *out = challenges + 2 * round, found = 0;
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
        sha.add(state, 32).add(&kind, 1).number(tag_bytes).add(tag, tag_bytes);
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

struct SumcheckWeights {  // Field.sumcheck_weights (protocol/field.py); scalars of K in two words each
    const u64 *point, *eq_point;  // eq_point may be null
    u64* out;
};

VL_EXPORT void vl_sumcheck_weights(const SumcheckWeights* given, u64 count, u64) {
    const u64 *point = given->point, *eq_point = given->eq_point, half = GL_P / 2 + 1;
    u64* out = given->out;
    const K<u64> one{1, 0};
    K<u64> factor = one;
    const auto put = [&](u64 i, K<u64> x) { out[2 * i] = x.a, out[2 * i + 1] = x.b; };
    for (u64 i = count; i--;) {
        const K<u64> r{point[2 * i], point[2 * i + 1]}, square = kmul(r, r);
        const K<u64> l1 = ksub(kadd(r, r), square), l2 = kmulf(ksub(square, r), half);
        K<u64> k = ksub(ksub(one, l1), l2), from_one = k;
        if (eq_point) {
            const K<u64> e{eq_point[2 * i], eq_point[2 * i + 1]};
            k = kmul(k, kinverse(ksub(one, e)));
            from_one = kmul(k, e);
        }
        put(1 + 2 * i, kmul(ksub(l1, from_one), factor));
        put(2 + 2 * i, kmul(l2, factor));
        factor = kmul(factor, k);
    }
    put(0, factor);
}

// The rounds of a level of the tree of fractions (fractions.h) over tables of 2^rounds entries without tiles. The weights of the round
// that has k variables left behind it: low[min(k, bits of a tile)] within tiles, high[k - that] by tile, two planes each.
struct FractionRounds {
    Talk talk;
    u64* cells[8];  // p0, p1, q0, q1, folded in place: entry 0 is the value at the bound point
    const u64 *const *low, *const *high;
    const u64* first;  // four words: the first round's g(1), g(2) where they are known
    u64 tile_bits, mu0, mu1, lam0, lam1;
};

VL_EXPORT void vl_fraction_rounds(const FractionRounds* given, u64, u64) {
    const FractionRounds f = *given;
    u64 g[4];
    const auto tables = [&](auto& body, u64 left) {  // a body's words, while `left` variables are to be bound
        const u64 count = left - 1, low = std::min(count, f.tile_bits), high = count - low;
        for (int k = 0; k < 8; ++k) body.cells[k] = f.cells[k];
        body.lo0 = f.low[2 * low], body.lo1 = f.low[2 * low + 1], body.hi0 = f.high[2 * high], body.hi1 = f.high[2 * high + 1];
        body.out = g, body.size = 1ULL << low, body.half = 1ULL << high;
        body.mu0 = f.mu0, body.mu1 = f.mu1, body.lam0 = f.lam0, body.lam1 = f.lam1;
    };
    const auto plain = [&](int k) {
        Table t{};
        t.x0 = f.cells[2 * k], t.x1 = f.cells[2 * k + 1];
        return t;
    };
    if (f.first) {
        std::copy(f.first, f.first + 4, g);
    } else {
        FractionSum<false> body{};
        for (int k = 0; k < 4; ++k) body.table[k] = plain(k);
        tables(body, f.talk.rounds);
        fraction_sum(body, body.half, body.size);
    }
    FractionSum<true> body{};
    for (int k = 0; k < 4; ++k) body.table[k] = plain(k);
    for (u64 left = f.talk.rounds; left--;) {
        const K<u64> r = f.talk.say(f.talk.rounds - 1 - left, g);
        if (left) {
            body.r0 = r.a, body.r1 = r.b;
            tables(body, left);
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
    const u64* first;  // four words: the first round's g(1), g(2)
    u64 count, passed0, passed1, waiting0, waiting1;
};

VL_EXPORT void vl_batch_rounds(const BatchRounds* given, u64, u64) {
    const BatchRounds b = *given;
    K<u64> passed{b.passed0, b.passed1}, waiting{b.waiting0, b.waiting1};
    std::vector<ProductItem> items(b.count);
    u64 g[4];
    std::copy(b.first, b.first + 4, g);
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
