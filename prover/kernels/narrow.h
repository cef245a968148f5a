// Narrow tiles (prover/backend/tiled.py): entry j is base - words[j] with words of 16 bits, as leaves with one column are. What a level's
// first passes compute from them are products with small integers (Small and SmallSum in one_lane.h), and 2 bytes an entry are read
// instead of 16. CPU only.
#pragma once
#include "leaves.h"
#include "strips.h"
#include <type_traits>

// Runs of whole tiles of leaves const - x. A tile whose x - first fits into words is written there, and its base is const - first: for
// first = 0, or else for -2^15. Others are written to the cells. No tile of a run is uniform any more.
struct Narrowing {
    const LincombRun* runs;
    u64 *cells0, *cells1;
    u16* words;
    u8 *narrow, *uniform;
    u64 *base0, *base1;
    u64 size;
    template <class T>
    void tile(const LincombRun& run, const T* from, u64 i) const {
        typedef typename std::conditional<sizeof(T) == 8, u64, u32>::type W;
        const u64 tile = run.start / size + i;
        u16* to = words + tile * size;
        W plain = 0, moved = 0;
        from += i * size;
        for (u64 j = 0; j < size; ++j) plain |= (W)from[j], moved |= (W)from[j] + 0x8000;  // without a sign: 2^32 - 2^15 is not small
        narrow[tile] = plain < 0x10000 || (std::is_signed<T>::value && moved < 0x10000), uniform[tile] = 0;
        base0[tile] = plain < 0x10000 ? run.const0 : gadd(run.const0, (u64)0x8000), base1[tile] = run.const1;
        if (!narrow[tile]) {
            const Integers column = run.columns[0].from(i * size);
            u64 *to0 = cells0 + tile * size, *to1 = cells1 + tile * size;
            return run_map(Lincomb{&column, run.coefs0, run.coefs1, to0, to1, 1, run.const0, run.const1}, 1, size);
        }
        for (u64 j = 0; j < size; j += 16) put(from + j, to + j);
        if (plain >= 0x10000)
            for (u64 j = 0; j < size; ++j) to[j] ^= 0x8000;
    }
    template <class T>
    static void put(const T* from, u16* to) {  // sixteen integers' lower bits
        for (int k = 0; k < 16; ++k) to[k] = (u16)from[k];
    }
#if defined(__AVX2__) && !defined(VL_512)
    static void put(const i64* from, u16* to) {
        __m256i v[4];
        for (int k = 0; k < 4; ++k) v[k] = _mm256_blend_epi16(_mm256_loadu_si256((const __m256i*)(from + 4 * k)), _mm256_setzero_si256(), 0xEE);
        const __m256i low = _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(v[0]), _mm256_castsi256_ps(v[1]), 0x88));
        const __m256i high = _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(v[2]), _mm256_castsi256_ps(v[3]), 0x88));
        const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        _mm256_storeu_si256((__m256i*)to, _mm256_permutevar8x32_epi32(_mm256_packus_epi32(low, high), order));
    }
#endif
};

VL_EXPORT void vl_narrow(const Narrowing* given, u64 count, u64 size) {
    const Narrowing body = *given;
    for (u64 k = 0; k < count; ++k) {
        const LincombRun& run = body.runs[k];
        typed(run.columns[0], [&](auto x) {
            parallel(run.size / size, run.size, [&](unsigned, u64 lo, u64 hi) {
                for (u64 i = lo; i < hi; ++i) body.tile(run, x.x, i);
            });
        });
    }
}

VL_FN K<u64> knegative(K<u64> x) { return ksub(K<u64>{0, 0}, x); }

template <class V>
VL_APART void narrow_widen(K<u64> base, const u16* x, u64* out0, u64* out1, u64 n) {  // base - x
    const K<V> from = kspread<V>(base.a, base.b);
    for (u64 j = 0; j < n; j += Lanes<V>::count) kstore(out0, out1, j, K<V>{gsub(from.a, load_int<V>(x + j)), from.b});
}
// base + Σ_c w_c·x[c·stride] for 2^depth scalars w, already negative: what is left of as many narrow tiles after folds
template <class V>
VL_APART void narrow_combine(K<u64> base, Planes w, u64 depth, const u16* x, u64 stride, u64* out0, u64* out1, u64 n) {
    enum { GROUP = SmallLinear<V>::TOGETHER };
    for (u64 j = 0; j < n; j += GROUP * Lanes<V>::count) {
        SmallLinear<V> sum[GROUP];
        for (int g = 0; g < GROUP; ++g) sum[g] = SmallLinear<V>(base);
        for (u64 c = 0; c < 1ULL << depth; ++c) {
            const SmallTerm<V> term(kload<u64>(w.a, w.b, c));
            for (int g = 0; g < GROUP; ++g) sum[g].mac(term, load_int<V>(x + c * stride + j + g * Lanes<V>::count));
        }
        for (int g = 0; g < GROUP; ++g) kstore(out0, out1, j + g * Lanes<V>::count, sum[g].value());
    }
}
// 1/(a - x) + 1/(b - y): p = a + b - x - y, q = ab - bx - ay + xy
template <class V>
VL_APART void narrow_layer(K<u64> a, K<u64> b, const u16* x, const u16* y, u64* p0, u64* p1, u64* q0, u64* q1, u64 n) {
    const K<u64> sum = kadd(a, b), product = kmul(a, b);
    const K<V> from = kspread<V>(sum.a, sum.b);
    const SmallTerm<V> of_x(knegative(b)), of_y(knegative(a));
    const SmallLinear<V> start(product);
    for (u64 j = 0; j < n; j += Lanes<V>::count) {
        const V c = load_int<V>(x + j), d = load_int<V>(y + j);
        kstore_past(p0, p1, j, K<V>{gsub(from.a, plus_small(c, d)), from.b});
        SmallLinear<V> q = start;
        q.mac(of_x, c), q.mac(of_y, d), q.add(times_small(c, d));
        kstore_past(q0, q1, j, q.value());
    }
}
template <class V, int N>
VL_APART void narrow_sums(Planes w, const u16* const* x, K<u64>* out, u64 n) {  // Σ w·x for N tiles
    enum { GROUP = ShortSum<V>::TOGETHER < N ? (int)ShortSum<V>::TOGETHER : N };
    for (int first = 0; first < N; first += GROUP) {
        ShortSum<V> sum[GROUP];
        for (int g = 0; g < GROUP; ++g) sum[g].clear();
        for (u64 j = 0; j < n; j += Lanes<V>::count) {
            const K<V> weight = w.at<V>(j);
            for (int g = 0; g < GROUP; ++g) sum[g].mac(weight, load_int<V>(x[first + g] + j));
        }
        for (int g = 0; g < GROUP; ++g) out[first + g] = sum[g].value();
    }
}

// Sums over two tables' tiles at X = 1 and X = 2, where a word becomes 2·high - low + 2^16
enum { MOVED = 1 << 16 };
template <class V>
VL_FN V at_two(V low, V high) {
    return minus_small(plus_small(plus_small(high, high), spread<V>(MOVED)), low);
}
template <class V>
VL_APART Pair<u64> narrow_products(Planes w, const u16* const* x, u64 n) {  // Σ w·x·y; the tiles are x low, x high, y low, y high
    SmallSum<V> one, two;
    one.clear(), two.clear();
    for (u64 j = 0; j < n; j += Lanes<V>::count) {
        const K<V> weight = w.at<V>(j);
        const V low = load_int<V>(x[0] + j), high = load_int<V>(x[1] + j), below = load_int<V>(x[2] + j), above = load_int<V>(x[3] + j);
        one.mac(weight, times_small(high, above));
        two.mac(weight, times_small(at_two(low, high), at_two(below, above)));
    }
    return Pair<u64>{one.value(), two.value()};
}
