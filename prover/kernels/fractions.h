// The tree of fractions (protocol/schedule/gkr.py): a layer from the one below, and the rounds of a layer's sumcheck.
//
// A table is cut into tiles of `size` entries; a uniform tile has one value for all its entries and its cells are neither
// read nor written. Looked-up leaves all have the numerator 1 and free leaves are 0/1, so most tiles near the leaves are
// uniform. A tile may also be narrow, small integers in place of its cells (narrow.h). The weight eq is a product: hi by tile, lo
// within the tile (Σ lo = 1), so no table of eq has the length of p. CPU only; device_tree.h has a GPU's form.
#pragma once
#include "narrow.h"

struct Table {
    const u64 *x0, *x1;
    const u8* uniform;  // null: no tile is
    const u64 *v0, *v1;
    const u8* narrow_tiles;  // null: no tile is
    const u64 *b0, *b1;
    const u16* words;
    VL_FN bool narrow(u64 tile) const { return narrow_tiles && narrow_tiles[tile]; }
    VL_FN K<u64> base(u64 tile) const { return kload<u64>(b0, b1, tile); }
    VL_FN bool same(u64 tile) const { return uniform && uniform[tile]; }
    VL_FN K<u64> value(u64 tile) const { return kload<u64>(v0, v1, tile); }
    VL_FN bool one(u64 tile) const { return same(tile) && v0[tile] == 1 && v1[tile] == 0; }
    VL_FN bool zero(u64 tile) const { return same(tile) && !(v0[tile] | v1[tile]); }
    template <class V>
    VL_FN K<V> get(u64 tile, u64 size, u64 j) const {
        if (narrow(tile)) return K<V>{gsub(spread<V>(b0[tile]), load_int<V>(words + tile * size + j)), spread<V>(b1[tile])};
        return same(tile) ? kspread<V>(v0[tile], v1[tile]) : kload<V>(x0, x1, tile * size + j);
    }
};

struct FractionLayer {  // (p0·q1 + p1·q0) / (q0·q1); index (tile, entry); result tiles that are uniform, or stay narrow, are left alone.
    // The planes of a result begin at a cache line: it is read only when all of it is there, so it goes past the caches.
    Table p0, p1, q0, q1;
    u64 *p_out0, *p_out1, *q_out0, *q_out1;
    u8 *p_uniform, *q_uniform;  // null: no tile is
    u64 *p_v0, *p_v1, *q_v0, *q_v1;
    u8* stays;  // null: no tile is narrow
    u64 size;
    VL_FN u64 cost() const { return 9; }

    // Flags and values of the result: a product with a uniform zero is uniform whatever the other factor is, and a narrow denominator
    // beside a 1 stays as it is, in the same memory.
    void mark(u64 tiles) const {
        for (u64 i = 0; p_uniform && i < tiles; ++i) {
            const K<u64> none{0, 0}, a = q0.value(i), b = q1.value(i);
            const bool left = p0.same(i) && q1.same(i), right = p1.same(i) && q0.same(i);
            p_uniform[i] = (left || p0.zero(i)) && (right || p1.zero(i)), q_uniform[i] = q0.same(i) && q1.same(i);
            kstore(p_v0, p_v1, i, kadd(left ? kmul(p0.value(i), b) : none, right ? kmul(p1.value(i), a) : none));
            kstore(q_v0, q_v1, i, q_uniform[i] ? kmul(a, b) : none);
            if (stays) stays[i] = q0.narrow(i) && q1.one(i);
        }
    }
    template <class V>
    VL_FN void at(u64 i, u64 j) const {
        K<V> a = q0.get<V>(i, size, j), b = q1.get<V>(i, size, j);
        if (!(p_uniform && p_uniform[i])) {
            K<V> p = p0.one(i) && p1.one(i) ? kadd(a, b) : kmul_add(p0.get<V>(i, size, j), b, p1.get<V>(i, size, j), a);
            kstore_past(p_out0, p_out1, i * size + j, p);
        }
        if (!(q_uniform && q_uniform[i]) && !(stays && stays[i])) kstore_past(q_out0, q_out1, i * size + j, q1.one(i) ? a : kmul(a, b));
    }
    template <class V>
    void row(u64 i, u64 j, u64 end) const {
        if (end - j >= Lanes<V>::count && p0.one(i) && p1.one(i) && q0.narrow(i) && q1.narrow(i)) {
            const u64 n = (end - j) / Lanes<V>::count * Lanes<V>::count, at = i * size + j;
            narrow_layer<V>(q0.base(i), q1.base(i), q0.words + at, q1.words + at, p_out0 + at, p_out1 + at, q_out0 + at, q_out1 + at, n);
            j += n;
        }
        for (; j + Lanes<V>::count <= end; j += Lanes<V>::count) this->at<V>(i, j);
        for (; j < end; ++j) this->at<u64>(i, j);
    }
};

// Σ eq·(p0 q1 + p1 q0 + μ q0 q1) at X = 1, 2 over index (tile, entry); the high halves of the tables lie `half` tiles on.
// FOLD: the tables are first folded by r (their upper halves lie 2·half tiles on) into `cells`, which may be the tables
// themselves; `folded` has the values of tiles that stay uniform.
//
// p0 q1 + p1 q0 + μ q0 q1 = q1·(p0 + μ q0) + p1·q0 with μ = 1/λ: three products instead of four, the caller multiplies by λ.
// Where both numerators are uniform, it is μ·(q0 + λ p0)·(q1 + λ p1) − λ p0 p1: one product an entry. Where one denominator is too,
// it is linear in the other, of which the sums Σ lo·q by tile say all: the first round takes them, they are folded like the values.
template <bool FOLD>
struct FractionSum {
    enum { SUMS = 2 };
    Table table[4];  // p0, p1, q0, q1
    u64* cells[8];
    u64* folded[8];  // values of the tables (folded, if FOLD), and sums by tile among them
    const u64 *lo0, *lo1, *hi0, *hi1;
    u64* out;
    u64 size, half, mu0, mu1, lam0, lam1, r0, r1;
    // A narrow tile that is needed for its sum alone stays as it is: folded `depth` times, entry j of tile t is base - Σ_c w_c·words at
    // tile t + c·(tiles left). Here are the -w_c before this fold and after it, the bases after it, and flags of tiles that stay.
    const u64 *w0, *w1, *next_w0, *next_w1;
    const u64* bases[8];
    u8* stays[4];
    u64 depth, may_stay;
    u8* uniform[4];  // FOLD: flags of the folded tables that have any
    VL_FN u64 cost() const { return FOLD ? 48 : 24; }

    void fold_tiles() const {
        for (int k = 0; k < 4; ++k) {
            if (!uniform[k]) continue;
            for (u64 i = 0; i < 2 * half; ++i) uniform[k][i] = table[k].same(i) && table[k].same(i + 2 * half);
            const u64 *v0 = table[k].v0, *v1 = table[k].v1;
            run_map(FoldTop{v0, v1, v0 + 2 * half, v1 + 2 * half, folded[2 * k], folded[2 * k + 1], r0, r1}, 1, 2 * half);
        }
    }

    VL_FN bool settled(int k, u64 tile) const { return table[k].same(tile) && (!FOLD || table[k].same(tile + 2 * half)); }
    VL_FN K<u64> value(int k, u64 tile) const { return kload<u64>(folded[2 * k], folded[2 * k + 1], tile); }
    u64 strip() const { return size < Strip::LENGTH ? size : (u64)Strip::LENGTH; }
    bool narrow(int k, u64 tile, u64 up) const { return table[k].narrow(tile) && table[k].narrow(tile + up); }
    // A strip of a table's tile; `room` takes it if the tile is uniform or narrow.
    template <class V>
    Planes source(int k, u64 tile, u64 j, u64 n, Strip& room) const {
        const Table& t = table[k];
        if (t.same(tile)) return room.fill(kload<u64>(t.v0, t.v1, tile));
        if (t.narrow(tile)) {
            const u16* words = t.words + tile * size + j;
            if (!depth)
                narrow_widen<V>(t.base(tile), words, room.a, room.b, n);
            else
                narrow_combine<V>(t.base(tile), Planes{w0, w1}, depth, words, 4 * half * size, room.a, room.b, n);
            return room;
        }
        return Planes{t.x0 + tile * size + j, t.x1 + tile * size + j};
    }
    template <class V>
    Planes folded_strip(int k, u64 tile, u64 j, u64 n, const KScale<V>& r, Strip& room) const {
        if (!FOLD) return source<V>(k, tile, j, n, room);
        if (settled(k, tile)) return room.fill(value(k, tile));
        Strip other;
        u64 *to0 = cells[2 * k] + tile * size + j, *to1 = cells[2 * k + 1] + tile * size + j;
        if (narrow(k, tile, 2 * half)) {
            const K<u64> base = kload<u64>(bases[2 * k], bases[2 * k + 1], tile);
            const u16* words = table[k].words + tile * size + j;
            narrow_combine<V>(base, Planes{next_w0, next_w1}, depth + 1, words, 2 * half * size, to0, to1, n);
        } else {
            strip_fold<V>(source<V>(k, tile, j, n, room), source<V>(k, tile + 2 * half, j, n, other), to0, to1, r, n);
        }
        return Planes{to0, to1};
    }
    struct Points {  // a strip of one table at X = 1 and X = 2
        Strip low, high, two;
        Planes one;
    };
    template <class V>
    void stage(int k, u64 i, u64 j, u64 n, const KScale<V>& r, Points& out) const {
        Planes low = folded_strip<V>(k, i, j, n, r, out.low);
        out.one = folded_strip<V>(k, i + half, j, n, r, out.high);
        strip_two<V>(low, out.one, out.two, n);
    }
    // What the next strips will read of table k's tile: nothing new if they are folded, for folding asks for its own.
    Planes next_source(int k, u64 tile, u64 j, Planes eq) const {
        if (FOLD || table[k].same(tile) || table[k].narrow(tile)) return eq;
        return Planes{table[k].x0, table[k].x1}.from(tile * size + j);
    }
    // Σ_j lo_j·(p0 q1 + p1 q0 + μ q0 q1), or with `products` Σ_j lo_j·(q0 + a)·(q1 + b), over a tile at X = 1, 2, or at 2 alone
    template <class V>
    Pair<u64> tile_sum(u64 i, bool products, Pair<u64> a, Pair<u64> b, bool two_alone = false) const {
        const KScale<V> r(K<u64>{r0, r1}), mu(K<u64>{mu0, mu1});
        KSum<V> sums[2];
        sums[0].clear(), sums[1].clear();
        Points p0, p1, q0, q1;
        Strip left, term;
        for (u64 j = 0, n = strip(); j < size; j += n) {
            const Planes eq{lo0 + j, lo1 + j};
            Planes next[8];
            for (int k = 0; k < 8; ++k) next[k] = next_source(3 - k % 4, i + k / 4 * half, j + n, eq);
            stage<V>(2, i, j, n, r, q0), stage<V>(3, i, j, n, r, q1);
            if (!products) stage<V>(0, i, j, n, r, p0), stage<V>(1, i, j, n, r, p1);
            for (int x = two_alone; x < 2; ++x) {
                const Planes c = x ? q0.two : q0.one, d = x ? q1.two : q1.one;
                if (products) {
                    strip_kmul<V>(c, d, x ? a.two : a.one, x ? b.two : b.one, term, n, next + 4 * x);
                } else {
                    strip_scale<V>(c, x ? p0.two : p0.one, left, mu, n, next + 4 * x);
                    strip_kmul_add<V>(d, left, x ? p1.two : p1.one, c, term, n, next + 4 * x + 2);
                }
                strip_mac<V>(sums[x], eq, term, n);
            }
        }
        return Pair<u64>{sums[0].value(), sums[1].value()};
    }
    // tile_sum of products where both denominators are narrow: (c - x)·(d - y) = cd - c·y - d·x + xy, and Σ lo = 1
    template <class V>
    Pair<u64> narrow_tile_sum(u64 i, Pair<u64> a, Pair<u64> b) const {
        const Planes eq{lo0, lo1};
        const u16* words[4];
        K<u64> sums[4];
        Pair<u64> sum[2], base[2];
        for (int k = 0; k < 4; ++k) words[k] = table[2 + k / 2].words + (i + k % 2 * half) * size;
        narrow_sums<V, 4>(eq, words, sums, size);
        for (int k = 0; k < 2; ++k) {
            sum[k] = at_one_two(sums[2 * k], sums[2 * k + 1]);
            base[k] = at_one_two(table[2 + k].base(i), table[2 + k].base(i + half));
            sum[k].two.a = gadd(canon(sum[k].two.a), (u64)MOVED), base[k].two.a = gadd(canon(base[k].two.a), (u64)MOVED);
        }
        const Pair<u64> c{kadd(base[0].one, a.one), kadd(base[0].two, a.two)}, d{kadd(base[1].one, b.one), kadd(base[1].two, b.two)};
        const Pair<u64> xy = narrow_products<V>(eq, words, size);
        const auto whole = [](K<u64> c, K<u64> d, K<u64> x, K<u64> y, K<u64> xy) {
            return kadd(kmul(ksub(c, x), ksub(d, y)), ksub(xy, kmul(x, y)));
        };
        return Pair<u64>{whole(c.one, d.one, sum[0].one, sum[1].one, xy.one), whole(c.two, d.two, sum[0].two, sum[1].two, xy.two)};
    }
    template <class V>
    K<u64> table_sum(int k, u64 tile) const {  // Σ_j lo_j·table over a tile
        const Planes eq{lo0, lo1};
        K<u64> total;
        if (table[k].narrow(tile)) {
            const u16* words = table[k].words + tile * size;
            narrow_sums<V, 1>(eq, &words, &total, size);
            return ksub(table[k].base(tile), total);
        }
        KSum<V> sum;
        sum.clear();
        const Planes x = Planes{table[k].x0, table[k].x1}.from(tile * size);
        for (u64 j = 0, n = strip(); j < size; j += n) strip_mac<V>(sum, eq.from(j), x.from(j), n);
        return sum.value();
    }
    // A table's part in a linear tile: its value, or its sum by the weights, which a first round takes and later ones have in
    // its place, so that these only fold, and not even that where a tile is narrow.
    template <class V>
    Pair<u64> linear_ends(int k, u64 i) const {
        if (!FOLD && narrow(k, i, half)) {
            const u16* words[2] = {table[k].words + i * size, table[k].words + (i + half) * size};
            K<u64> sums[2];
            narrow_sums<V, 2>(Planes{lo0, lo1}, words, sums, size);
            for (int up = 0; up < 2; ++up)
                kstore(folded[2 * k], folded[2 * k + 1], i + up * half, ksub(table[k].base(i + up * half), sums[up]));
            return ends(k, i);
        }
        const KScale<V> r(K<u64>{r0, r1});
        for (u64 tile = i; tile <= i + half; tile += half) {
            if (settled(k, tile)) continue;
            Strip room;
            if (!FOLD)
                kstore(folded[2 * k], folded[2 * k + 1], tile, table_sum<V>(k, tile));
            else if (may_stay && narrow(k, tile, 2 * half))
                stays[k][tile] = 1;
            else
                for (u64 j = 0, n = strip(); j < size; j += n) folded_strip<V>(k, tile, j, n, r, room);
        }
        return ends(k, i);
    }
    Pair<u64> ends(int k, u64 i) const {
        Pair<u64> x = at_one_two(value(k, i), value(k, i + half));
        x.two.a = canon(x.two.a);
        return x;
    }
    // Where a table ends, only the lower tile has numerators that differ: at X = 1, which is the upper tile, all is linear in one denominator.
    template <class V>
    Pair<u64> edge(u64 i) const {
        Pair<u64> s = tile_sum<V>(i, false, Pair<u64>(), Pair<u64>(), true);
        K<u64> q[2];
        for (int k = 2; k < 4; ++k) q[k - 2] = FOLD || settled(k, i + half) ? value(k, i + half) : table_sum<V>(k, i + half);
        const K<u64> left = kadd(value(0, i + half), kmul(K<u64>{mu0, mu1}, q[0]));
        s.one = kadd(kmul(left, q[1]), kmul(value(1, i + half), q[0]));
        return s;
    }
    template <class V>
    Pair<u64> row(u64 i) const {
        bool same[4], upper[4];
        for (int k = 0; k < 4; ++k) upper[k] = settled(k, i + half), same[k] = upper[k] && settled(k, i);
        if (!same[0] || !same[1]) {
            if (upper[0] && upper[1] && (upper[2] || upper[3]) && folded[4] && folded[6]) return edge<V>(i);
            return tile_sum<V>(i, false, Pair<u64>(), Pair<u64>());
        }
        const K<u64> lam{lam0, lam1}, mu{mu0, mu1};
        const Pair<u64> p0 = ends(0, i), p1 = ends(1, i);
        const Pair<u64> a{kmul(lam, p0.one), kmul(lam, p0.two)}, b{kmul(lam, p1.one), kmul(lam, p1.two)};
        Pair<u64> s;
        if (!same[2] && !same[3]) {
            s = !FOLD && narrow(2, i, half) && narrow(3, i, half) ? narrow_tile_sum<V>(i, a, b) : tile_sum<V>(i, true, a, b);
        } else {
            Pair<u64> x = linear_ends<V>(2, i), y = linear_ends<V>(3, i);
            s = Pair<u64>{kmul(kadd(x.one, a.one), kadd(y.one, b.one)), kmul(kadd(x.two, a.two), kadd(y.two, b.two))};
        }
        return Pair<u64>{ksub(kmul(mu, s.one), kmul(p0.one, b.one)), ksub(kmul(mu, s.two), kmul(p0.two, b.two))};
    }
    void row(u64 i, K<u64>* sums) const {
#ifdef VL_WIDE
        Pair<u64> x = size >= Lanes<VL_WIDE>::count ? row<VL_WIDE>(i) : row<u64>(i);
#else
        Pair<u64> x = row<u64>(i);
#endif
        const K<u64> hi = kload<u64>(hi0, hi1, i);
        sums[0] = kadd(sums[0], kmul(hi, x.one));
        sums[1] = kadd(sums[1], kmul(hi, x.two));
    }
};

static void fraction_layer(const FractionLayer& given, u64 tiles, u64 size) {
    parallel(tiles * size, tiles * size * given.cost(), [&](unsigned, u64 lo, u64 hi) {
        const FractionLayer body = given;
#ifdef VL_WIDE
        each_row(size, lo, hi, [&](u64 i, u64 j, u64 end) { body.row<VL_WIDE>(i, j, end); });
        _mm_sfence();
#else
        each_row(size, lo, hi, [&](u64 i, u64 j, u64 end) { body.row<u64>(i, j, end); });
#endif
    });
}
VL_EXPORT void vl_fraction_layer(const FractionLayer* given, u64 tiles, u64 size) {
    given->mark(tiles);
    fraction_layer(*given, tiles, size);
}

struct FractionLayers {  // all layers above tables without tiles, p's planes and then q's: cells at `out`, each plane at least `room` words
    const u64 *p0, *p1, *q0, *q1;
    u64 *out, room;
};
VL_EXPORT void vl_fraction_layers(const FractionLayers* given, u64, u64 size) {
    const u64 *p0 = given->p0, *p1 = given->p1, *q0 = given->q0, *q1 = given->q1;
    u64* out = given->out;
    while (size /= 2) {
        const u64 plane = size > given->room ? size : given->room;
        const auto table = [&](const u64* x0, const u64* x1, u64 from) { return Table{x0 + from, x1 + from}; };
        FractionLayer body{table(p0, p1, 0), table(p0, p1, size), table(q0, q1, 0), table(q0, q1, size)};
        p0 = body.p_out0 = out, p1 = body.p_out1 = out + plane, q0 = body.q_out0 = out + 2 * plane, q1 = body.q_out1 = out + 3 * plane;
        body.size = size, out += 4 * plane;
        fraction_layer(body, 1, size);
    }
}
template <bool FOLD>
static void fraction_sum(const FractionSum<FOLD>& body, u64 tiles, u64 size) {  // times λ
    run_rows(body, tiles, size);
    for (int x = 0; x < 2; ++x) {
        const K<u64> sum = kmul(K<u64>{body.lam0, body.lam1}, K<u64>{body.out[2 * x], body.out[2 * x + 1]});
        body.out[2 * x] = sum.a, body.out[2 * x + 1] = sum.b;
    }
}
VL_EXPORT void vl_fraction_round(const FractionSum<false>* body, u64 tiles, u64 size) { fraction_sum(*body, tiles, size); }
VL_EXPORT void vl_fraction_fold_round(const FractionSum<true>* body, u64 tiles, u64 size) {
    body->fold_tiles();
    fraction_sum(*body, tiles, size);
}
