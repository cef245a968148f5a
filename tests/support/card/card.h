// What the card's runtime (runtime.cpp) and the kernels that it loads (device.h) know of each other.
#pragma once
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef unsigned __int128 u128;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef float f32;
typedef double f64;

enum { GRANULE = 256, MAX_RANGES = 1 << 16 };
enum Fault { NO_FAULT = 0, BAD_ADDRESS, BAD_BARRIER, TRAP };

struct Range {
    u64 first, end;
};
struct Memory {
    u64 first, reach;         // addresses of the device: [first, first + reach), which mean nothing to the host
    char* at;                 // where its bytes lie
    u16* valid;               // of each granule of the device, how many of its first bytes are allocated
    u64 ranges;
    Range range[MAX_RANGES];  // pinned memory of the host, in order
};
struct Dim {
    u32 x, y, z;
};
struct Launch {
    const char* parameters;
    Dim grid, block;
    u32 dynamic;              // bytes of shared memory that the launch adds
    const char* name;
    u32 blocks;               // of a sampled launch, how many of the first row run in place of all; 0: all
    u64 *instructions, *bytes;  // what is executed, and moved to and from global memory, is added here (by kernels that count: CARD_TALLY)
};
