// The one translation unit: a C++17 compiler makes the CPU library (prover/kernels/build.py), NVRTC the CUDA module.
#include "field.h"
#include "launch.h"

#include "bodies.h"
#include "ntt.h"
#include "sha256.h"

#ifdef VL_CUDA
VL_MAP(vl_hash_columns, HashColumn)
VL_MAP(vl_hash_pairs, HashPair)
#include "device.h"
#include "device_ntt.h"
#include "device_tree.h"
#else
#include "folds.h"
#include "fractions.h"
#include "memory.h"
#include "outer.h"
#include "rounds.h"
#include "sha16.h"
#include "shani.h"

// Lets the allocator keep freed arrays instead of returning them: the rounds of a sumcheck free and allocate
// tables of the same sizes, and fresh pages cost more than the arithmetic on them. Large arrays come from the heap too (the
// threshold above which the system is asked for each cannot be set beyond 32 MB), all threads from one.
VL_EXPORT void vl_keep_memory() { keep_memory(); }

VL_EXPORT void vl_hash_columns(const HashColumn* given, u64 n0, u64 n) {
#ifdef VL_SHA_LANES
    if (has_sha() && n % VL_SHA_LANES == 0) {
        const u64 strip = n < SHA_STRIP ? n : SHA_STRIP;
        const HashColumn h = *given;
        const u64 blocks = h.blocks();
        parallel((n + strip - 1) / strip, n * h.cost(), [&](unsigned, u64 lo, u64 hi) {
            for (u64 k = lo; k < hi; ++k) hash_strip(h, k * strip, n - k * strip < strip ? n - k * strip : strip, blocks);
        });
        return;
    }
#endif
    run_map(*given, n0, n);
}

static void hash_pairs(const HashPair& h, u64 n) {
#ifdef VL_SHA_LANES
    if (has_sha() && n % VL_SHA_LANES == 0) {
        parallel(n / VL_SHA_LANES, n * h.cost(), [&](unsigned, u64 lo, u64 hi) {
            u32 begun[8];
            sha_after_tag(begun, h.tag);
            for (u64 k = lo; k < hi; ++k) hash_nodes(h, VL_SHA_LANES * k, begun);
        });
        return;
    }
#endif
    run_map(h, 1, n);
}

// All levels above the leaves, of which there are twice n, one behind the other.
VL_EXPORT void vl_hash_levels(const HashPair* given, u64, u64 n) {
    for (HashPair h = *given; n; n /= 2) {
        hash_pairs(h, n);
        h.below = h.out, h.out += 32 * n;
    }
}
#endif
