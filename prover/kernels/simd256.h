// Four lanes of Goldilocks in an AVX2 register, for processors without AVX-512; same conventions as field.h and simd512.h.
//
// There are no unsigned comparisons: words are compared with their top bits flipped.
#pragma once

#if defined(__AVX2__) && !defined(__AVX512F__) && !defined(VL_CUDA)
#define VL_WIDE V4
#include <immintrin.h>
#include <cstring>

struct V4 {
    __m256i v;
};

template <>
struct Lanes<V4> {
    enum { count = 4 };
};

template <>
VL_FN V4 load<V4>(const u64* at) {
    return V4{_mm256_loadu_si256((const __m256i*)at)};
}
VL_FN void store(u64* at, V4 x) { _mm256_storeu_si256((__m256i*)at, x.v); }
VL_FN void store_past(u64* at, V4 x) { _mm256_stream_si256((__m256i*)at, x.v); }
template <>
VL_FN V4 spread<V4>(u64 x) {
    return V4{_mm256_set1_epi64x((i64)x)};
}
VL_FN __m256i eps4() { return _mm256_set1_epi64x((i64)GL_EPS); }
VL_FN __m256i flip(__m256i x) { return _mm256_xor_si256(x, _mm256_set1_epi64x((i64)(1ULL << 63))); }
VL_FN __m256i eps_if_less(__m256i a, __m256i b) {  // 2^32 - 1 where a < b
    return _mm256_srli_epi64(_mm256_cmpgt_epi64(flip(b), flip(a)), 32);
}
VL_FN __m128i four_bytes(const void* at) {
    int x;
    std::memcpy(&x, at, 4);
    return _mm_cvtsi32_si128(x);
}
#define VL_LOAD_INTS(T, LOADED)         \
    template <>                         \
    VL_FN V4 load_int<V4>(const T* at) { \
        return V4{LOADED};              \
    }
VL_LOAD_INTS(i8, _mm256_cvtepi8_epi64(four_bytes(at)))
VL_LOAD_INTS(u8, _mm256_cvtepu8_epi64(four_bytes(at)))
VL_LOAD_INTS(i16, _mm256_cvtepi16_epi64(_mm_loadl_epi64((const __m128i*)at)))
VL_LOAD_INTS(u16, _mm256_cvtepu16_epi64(_mm_loadl_epi64((const __m128i*)at)))
VL_LOAD_INTS(i32, _mm256_cvtepi32_epi64(_mm_loadu_si128((const __m128i*)at)))
VL_LOAD_INTS(u32, _mm256_cvtepu32_epi64(_mm_loadu_si128((const __m128i*)at)))
VL_LOAD_INTS(i64, _mm256_loadu_si256((const __m256i*)at))
VL_FN V4 canonical_int(V4 x) {
    __m256i negative = _mm256_cmpgt_epi64(_mm256_setzero_si256(), x.v);
    return V4{_mm256_add_epi64(x.v, _mm256_and_si256(negative, _mm256_set1_epi64x((i64)GL_P)))};
}

VL_FN V4 canon(V4 x) {  // p - 1 < x
    __m256i over = _mm256_cmpgt_epi64(flip(x.v), _mm256_set1_epi64x((i64)((GL_P - 1) ^ (1ULL << 63))));
    return V4{_mm256_add_epi64(x.v, _mm256_srli_epi64(over, 32))};
}
VL_FN V4 addr(V4 a, V4 b) {
    __m256i s = _mm256_add_epi64(a.v, b.v);
    return V4{_mm256_add_epi64(s, eps_if_less(s, b.v))};
}
VL_FN V4 subr(V4 a, V4 b) { return V4{_mm256_sub_epi64(_mm256_sub_epi64(a.v, b.v), eps_if_less(a.v, b.v))}; }

VL_FN V4 reduce_wide(__m256i lo, __m256i hi) {
    __m256i top = _mm256_srli_epi64(hi, 32);
    __m256i t = _mm256_sub_epi64(_mm256_sub_epi64(lo, top), eps_if_less(lo, top));
    __m256i u = _mm256_mul_epu32(hi, eps4()), r = _mm256_add_epi64(t, u);
    return V4{_mm256_add_epi64(r, eps_if_less(r, u))};
}

VL_FN V4 mulr(V4 a, V4 b) {
    __m256i a1 = _mm256_srli_epi64(a.v, 32), b1 = _mm256_srli_epi64(b.v, 32);
    __m256i ll = _mm256_mul_epu32(a.v, b.v), lh = _mm256_mul_epu32(a.v, b1);
    __m256i hl = _mm256_mul_epu32(a1, b.v), hh = _mm256_mul_epu32(a1, b1);
    __m256i mid = _mm256_add_epi64(hl, _mm256_srli_epi64(ll, 32));
    __m256i low = _mm256_add_epi64(lh, _mm256_and_si256(mid, eps4()));
    __m256i hi = _mm256_add_epi64(_mm256_add_epi64(hh, _mm256_srli_epi64(mid, 32)), _mm256_srli_epi64(low, 32));
    return reduce_wide(_mm256_blend_epi32(ll, _mm256_slli_epi64(low, 32), 0xAA), hi);
}

VL_FN V4 mul7(V4 a) {  // a·7 as two words, from its halves
    __m256i seven = _mm256_set1_epi64x(7);
    __m256i ll = _mm256_mul_epu32(a.v, seven), hl = _mm256_mul_epu32(_mm256_srli_epi64(a.v, 32), seven);
    __m256i mid = _mm256_add_epi64(hl, _mm256_srli_epi64(ll, 32)), hi = _mm256_srli_epi64(mid, 32);
    __m256i lo = _mm256_blend_epi32(ll, _mm256_slli_epi64(mid, 32), 0xAA);
    __m256i u = _mm256_sub_epi64(_mm256_slli_epi64(hi, 32), hi), r = _mm256_add_epi64(lo, u);
    return V4{_mm256_add_epi64(r, eps_if_less(r, u))};
}

template <int S>
VL_FN V4 shiftr(V4 a) {
    return reduce_wide(_mm256_slli_epi64(a.v, S), _mm256_srli_epi64(a.v, 64 - S));
}

template <>
struct Acc<V4> {  // two sums of 32-bit halves of reduced values, exact for 2^32 terms
    __m256i lo, hi;
    VL_FN void clear() { lo = hi = _mm256_setzero_si256(); }
    VL_FN void add(V4 x) {
        lo = _mm256_add_epi64(lo, _mm256_and_si256(x.v, eps4()));
        hi = _mm256_add_epi64(hi, _mm256_srli_epi64(x.v, 32));
    }
    VL_FN void mac(V4 a, V4 b) { add(mulr(a, b)); }
    VL_FN void drain(Acc<u64>& into) const {
        u64 words[8];
        store(words, V4{lo});
        store(words + 4, V4{hi});
        for (int i = 0; i < 4; ++i) {
            into.mac(words[i], 1);
            into.mac(words[4 + i], 1ULL << 32);
        }
    }
    VL_FN V4 value() const {
        return canon(addr(reduce_wide(_mm256_slli_epi64(hi, 32), _mm256_srli_epi64(hi, 32)), canon(V4{lo})));
    }
};
#endif
