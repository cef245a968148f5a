// What kernels that ptx.py makes of PTX stand on: threads, barriers, and memory whose every access is checked.
//
// Blocks run one after another, in an order that is drawn anew each time, and so do a block's threads: those of a kernel with barriers are
// fibers that change there and nowhere else, so a missing barrier shows as a wrong result, and a barrier that only some threads of a block
// reach is a fault. Shared memory is filled with garbage before every block. A fault ends the launch; what it was goes to standard error.
#pragma once
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "card.h"

#define EXPORT extern "C" __attribute__((visibility("default")))
EXPORT Memory* card_memory;
Memory* card_memory;

enum { MAX_THREADS = 1024, STACK = 1 << 16, SHARED_BYTES = 256 << 10 };

static const Launch* launch;
static Dim tid, ctaid;
static u32 thread_number, shared_size;
alignas(256) static char shared_memory[SHARED_BYTES];
extern const Range module_variables[];  // ends with {0, 0}

#ifdef CARD_TALLY
#define TALLY(INSTRUCTIONS, BYTES) (*launch->instructions += (INSTRUCTIONS), *launch->bytes += (BYTES))
#else
#define TALLY(INSTRUCTIONS, BYTES)
#endif

// ---- threads -----------------------------------------------------------------------------------------------------------------

struct Fiber {
    jmp_buf at;
    ucontext_t start;
    bool born, waiting, done;
};
static Fiber fibers[MAX_THREADS];
static jmp_buf scheduler, outside;
static ucontext_t home;
static void (*kernel)(const char*);

static void live() {  // a fiber serves launch after launch
    for (;;) {
        kernel(launch->parameters);
        fibers[thread_number].done = true;
        if (!_setjmp(fibers[thread_number].at)) _longjmp(scheduler, 1);
    }
}

static __attribute__((noinline)) void barrier() {
    fibers[thread_number].waiting = true;
    if (!_setjmp(fibers[thread_number].at)) _longjmp(scheduler, 1);
    asm volatile("" ::: "memory");
}

static void become(u32 thread) {
    const Dim d = launch->block;
    thread_number = thread, tid = {thread % d.x, thread / d.x % d.y, thread / d.x / d.y};
}

static void resume(u32 thread) {
    Fiber& f = fibers[thread];
    become(thread), f.waiting = false;
    if (_setjmp(scheduler)) return;
    if (f.born) _longjmp(f.at, 1);
    f.born = true;
    static char* stacks = nullptr;
    if (!stacks)
        stacks = (char*)mmap(nullptr, (size_t)MAX_THREADS * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    getcontext(&f.start);
    f.start.uc_stack.ss_sp = stacks + (size_t)thread * STACK;
    f.start.uc_stack.ss_size = STACK;
    f.start.uc_link = nullptr;
    makecontext(&f.start, live, 0);
    swapcontext(&home, &f.start);
}

[[noreturn]] static __attribute__((noinline)) void fault(int code, const char* what, u64 address) {
    fprintf(stderr, "card: %s, block (%u, %u, %u), thread (%u, %u, %u): %s", launch->name, ctaid.x, ctaid.y, ctaid.z, tid.x, tid.y, tid.z, what);
    if (code == BAD_ADDRESS) fprintf(stderr, " at %#llx", (unsigned long long)address);
    fputc('\n', stderr);
    _longjmp(outside, code);
}

// ---- memory ------------------------------------------------------------------------------------------------------------------

static __attribute__((noinline)) char* on_host(u64 a, u64 n) {
    for (const Range* r = module_variables; r->end; ++r)
        if (a >= r->first && a + n <= r->end) return (char*)a;
    u64 low = 0, high = card_memory->ranges;
    while (low < high) {
        const u64 middle = (low + high) / 2;
        if (card_memory->range[middle].end > a) high = middle;
        else low = middle + 1;
    }
    if (low == card_memory->ranges || a < card_memory->range[low].first || a + n > card_memory->range[low].end)
        fault(BAD_ADDRESS, "an access to what is neither the device's nor pinned", a);
    return (char*)a;
}
static inline char* in_global(u64 a, u64 n) {
    if (a & (n - 1)) fault(BAD_ADDRESS, "a misaligned access", a);
    const u64 offset = a - card_memory->first;
    if (offset >= card_memory->reach) return on_host(a, n);
    if ((offset & (GRANULE - 1)) + n > card_memory->valid[offset / GRANULE]) fault(BAD_ADDRESS, "an access outside of every allocation", a);
    return card_memory->at + offset;
}
static inline char* anywhere(u64 a, u64 n) { return in_global(a, n); }  // no generic address of shared memory is ever made (ptx.py)
static inline char* in_const(u64 a, u64 n) { return on_host(a, n); }
static inline char* in_shared(u64 a, u64 n) {
    if (a & (n - 1)) fault(BAD_ADDRESS, "a misaligned access to shared memory", a);
    if (a > shared_size || n > shared_size - a) fault(BAD_ADDRESS, "an access past the end of shared memory", a);
    return shared_memory + a;
}
template <class T>
static inline T get(const char* at) {
    T x;
    memcpy(&x, at, sizeof x);
    return x;
}
template <class T>
static inline void put(char* at, T x) {
    memcpy(at, &x, sizeof x);
}

// ---- instructions that C++ has no sign for, or another meaning -----------------------------------------------------------------

static inline u64 high(u64 a, u64 b) { return (u64)((unsigned __int128)a * b >> 64); }
static inline u32 funnel_left(u32 low, u32 high, u32 n) { return (u32)(((u64)high << 32 | low) << (n & 31) >> 32); }
template <class T>
static inline T shift_left(T x, u32 n) {
    return n >= 8 * sizeof(T) ? 0 : (T)(x << n);
}
template <class T>
static inline T shift_right(T x, u32 n) {
    return n >= 8 * sizeof(T) ? (x < 0 ? (T)-1 : 0) : (T)(x >> n);
}
template <class T>
static inline T reversed(T x) {
    T y = 0;
    for (u32 i = 0; i < 8 * sizeof(T); ++i) y = (T)(y << 1 | (x >> i & 1));
    return y;
}
template <class T>
static inline T leading_zeros(T x) {
    T n = 0;
    while (n < 8 * sizeof(T) && !(x >> (8 * sizeof(T) - 1 - n) & 1)) ++n;
    return n;
}
template <class T>
static inline T inserted(T x, T into, u32 from, u32 count) {  // the low `count` bits of x, at that bit
    from &= 255, count &= 255;
    const u64 bits = count > 63 ? ~0ULL : (1ULL << count) - 1;
    return from >= 8 * sizeof(T) ? into : (T)((into & ~(T)(bits << from)) | (T)((x & bits) << from));
}
template <class T>
static inline T quotient(T a, T b) {  // of 0 and of the least integer by -1: something, but no signal
    return b == 0 ? (T)-1 : (T)-1 < 0 && b == (T)-1 ? (T)(0 - (u64)a) : (T)(a / b);
}
template <class T>
static inline T rest(T a, T b) {
    return b == 0 ? a : (T)-1 < 0 && b == (T)-1 ? 0 : (T)(a % b);
}
template <class T>
static inline T smaller(T a, T b) {
    return a < b ? a : b;
}
template <class T>
static inline T larger(T a, T b) {
    return a > b ? a : b;
}

// ---- launches ----------------------------------------------------------------------------------------------------------------

static u64 drawn = 1;
struct Order {  // of n things, drawn anew each time
    u32 n, first, step;
    explicit Order(u32 count) : n(count) {
        drawn = drawn * 6364136223846793005ULL + 1442695040888963407ULL;
        first = (u32)(drawn >> 33) % n, step = (u32)(drawn >> 40) % n | 1;
        for (u32 a = step, b = n;; ++step, a = step, b = n) {
            while (b) { const u32 c = a % b; a = b, b = c; }
            if (a == 1) break;
        }
    }
    u32 operator[](u32 k) const { return (u32)((first + (u64)k * step) % n); }
};

static int run_block(u32 threads, bool waits) {
    memset(shared_memory, 0xA5, shared_size);
    if (!waits) {
        const Order order(threads);
        for (u32 k = 0; k < threads; ++k) become(order[k]), kernel(launch->parameters);
        return NO_FAULT;
    }
    for (u32 t = 0; t < threads; ++t) fibers[t].done = fibers[t].waiting = false;
    for (;;) {
        const Order order(threads);
        u32 waiting = 0;
        for (u32 k = 0; k < threads; ++k) {
            const u32 t = order[k];
            if (fibers[t].done) fault(BAD_BARRIER, "it has ended, others of its block wait at a barrier", 0);
            resume(t);
            waiting += fibers[t].waiting;
        }
        if (!waiting) return NO_FAULT;
        if (waiting < threads) fault(BAD_BARRIER, "a barrier that not all threads of the block reach", 0);
    }
}

static int run_launch(const Launch* given, void (*entry)(const char*), u32 static_bytes, bool waits) {
    launch = given, kernel = entry, shared_size = static_bytes + given->dynamic;
    if (shared_size > SHARED_BYTES) return TRAP;
    const Dim g = given->grid, b = given->block;
    const u32 threads = b.x * b.y * b.z;
    if (const int code = _setjmp(outside)) {
        for (u32 t = 0; t < MAX_THREADS; ++t) fibers[t].born = false;  // they hang in the middle of something
        return code;
    }
    for (u32 z = 0; z < (given->blocks ? 1 : g.z); ++z)
        for (u32 y = 0; y < (given->blocks ? 1 : g.y); ++y) {
            const Order order(g.x);
            for (u32 k = 0; k < (given->blocks ? given->blocks : g.x); ++k) {
                ctaid = {order[k], y, z};
                run_block(threads, waits);
            }
        }
    return NO_FAULT;
}
