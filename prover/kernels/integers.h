// Integers of a tensor in as few bytes as its range needs, of a kind that a word says (prover/backend/integers.py): proofs keep values so,
// and kernels read them as they are. A launch has one kind, or one for each run of entries, so a GPU's threads decide alike.
#pragma once
#include "field.h"

enum Kind { INT8, UINT8, INT16, UINT16, INT32, UINT32, INT64 };  // 2^(kind / 2) bytes

struct Integers {
    const void* x;
    u64 kind;
    VL_FN Integers from(u64 j) const { return Integers{(const u8*)x + (j << kind / 2), kind}; }
    template <class V>
    VL_FN V at(u64 j) const {  // with its sign extended to 64 bits
        switch (kind) {
            case INT8: return load_int<V>((const i8*)x + j);
            case UINT8: return load_int<V>((const u8*)x + j);
            case INT16: return load_int<V>((const i16*)x + j);
            case UINT16: return load_int<V>((const u16*)x + j);
            case INT32: return load_int<V>((const i32*)x + j);
            case UINT32: return load_int<V>((const u32*)x + j);
            default: return load_int<V>((const i64*)x + j);
        }
    }
    template <class V>
    VL_FN V field(u64 j) const {
        return canonical_int(at<V>(j));
    }
};

template <class T>
struct IntegersOf {  // of one kind
    const T* x;
    template <class V>
    VL_FN V field(u64 j) const {
        return canonical_int(load_int<V>(x + j));
    }
};

// work(x) with x of a kind that is known, for loops that compile better then.
template <class F>
VL_FN void typed(Integers x, const F& work) {
    switch (x.kind) {
        case INT8: return work(IntegersOf<i8>{(const i8*)x.x});
        case UINT8: return work(IntegersOf<u8>{(const u8*)x.x});
        case INT16: return work(IntegersOf<i16>{(const i16*)x.x});
        case UINT16: return work(IntegersOf<u16>{(const u16*)x.x});
        case INT32: return work(IntegersOf<i32>{(const i32*)x.x});
        case UINT32: return work(IntegersOf<u32>{(const u32*)x.x});
        default: return work(IntegersOf<i64>{(const i64*)x.x});
    }
}
