// Sums of products of K by F for kernels of a GPU with so many of them that registers are what they lack: five words a sum for eight, twelve
// instructions a term for six.
#pragma once
#include "field.h"

struct FewRegisters {
    u64 low, high;
    u32 over;
    VL_FN void clear() { low = high = over = 0; }
    VL_FN void mac(u64 a, u64 b) {
        u64 lo, hi;
        mul_wide(a, b, lo, hi);
        asm("add.cc.u64 %0, %0, %3; addc.cc.u64 %1, %1, %4; addc.u32 %2, %2, 0;" : "+&l"(low), "+&l"(high), "+&r"(over) : "l"(lo), "l"(hi));
    }
    VL_FN u64 value() const { return canon(reduce_wide(low, high, over)); }
};
struct KFewRegisters {
    FewRegisters f0, f1;
    VL_FN void clear() { f0.clear(), f1.clear(); }
};
VL_FN K<u64> kvalue(const KFewRegisters& s) { return K<u64>{s.f0.value(), s.f1.value()}; }
template <int SUMS>
struct SumsOf {  // what a kernel with so many sums adds up in
    typedef KAcc<u64> Sum;
};
template <>
struct SumsOf<9> {
    typedef KFewRegisters Sum;
};
