// A CUDA driver and runtime without a card: as much of both as CuPy asks for, over this machine's memory and processor.
//
// Memory has edges: every allocation lies apart from the others, addresses of the device mean nothing to the host, fresh memory holds
// garbage. Launches and copies wait in one queue, whatever their stream, until the host waits for something: what it reads before is
// garbage, what it overwrites too early is lost. After a fault of a kernel every call fails, as on a card. An idle card answers all
// calls and computes nothing, so that real sizes can be counted; on a sampled one a few blocks of each launch run, and stand for all.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "card.h"

#define API extern "C" __attribute__((visibility("default")))

typedef int Status;
enum : Status { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_IMAGE = 200, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719 };
enum { MAJOR = 9, MINOR = 0, VERSION = 13000 };  // compute capability of an H100 or H200, CUDA 13.0
enum { HOST_TO_DEVICE = 1, DEVICE_TO_HOST = 2, DEVICE_TO_DEVICE = 3 };

namespace {
std::recursive_mutex mutex;
struct Locked {
    std::lock_guard<std::recursive_mutex> held{mutex};
};

enum Mode { BUSY, IDLE, SAMPLED };
enum { SAMPLE = 4 };  // blocks of a launch
struct {
    u64 bytes = 4ULL << 30;
    int multiprocessors = 2;
    int mode = BUSY;
    u64 before = 0;  // what was allocated before these settings, which is in nobody's way
} settings;
const char* (*translate)(const char* ptx) = nullptr;  // a library of the kernels of a PTX text, or null

std::map<std::string, u64> counts;
void count(const std::string& what, u64 bytes = 0) {
    ++counts[what];
    if (!bytes) return;
    counts["bytes " + what] += bytes;
    u64& most = counts["most " + what];
    most = std::max(most, bytes);
}

Status fail(Status status, const std::string& what) {
    fprintf(stderr, "card: %s\n", what.c_str());
    return status;
}

// ---- memory ------------------------------------------------------------------------------------------------------------------

enum : u64 { REACH = 1ULL << 42, PAGE = 4096 };
Memory memory;
std::map<u64, u64> live, pinned;  // first address: size
u64 in_use = 0;

u64 left() {
    const u64 used = in_use > settings.before ? in_use - settings.before : 0;
    return settings.bytes - std::min(settings.bytes, used);
}

char* reserve(u64 size, int protection) {
    void* at = mmap(nullptr, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) abort();
    return (char*)at;
}

void start() {
    if (memory.reach) return;
    memory.first = (u64)reserve(REACH, PROT_NONE), memory.reach = REACH;
    memory.at = reserve(REACH, PROT_READ | PROT_WRITE);
    memory.valid = (u16*)reserve(REACH / GRANULE * sizeof(u16), PROT_READ | PROT_WRITE);
}

void mark(u64 first, u64 size, bool valid) {
    for (u64 done = 0; done < size; done += GRANULE)
        memory.valid[(first - memory.first + done) / GRANULE] = valid ? (u16)std::min<u64>(GRANULE, size - done) : 0;
}

void tell_kernels_what_is_pinned() {
    if (pinned.size() > MAX_RANGES) abort();
    memory.ranges = 0;
    for (auto& [first, size] : pinned) memory.range[memory.ranges++] = {first, first + size};
}

std::map<u64, u64>::iterator holder(std::map<u64, u64>& of, u64 address) {
    auto next = of.upper_bound(address);
    if (next == of.begin()) return of.end();
    auto found = std::prev(next);
    return address < found->first + found->second ? found : of.end();
}
bool is_pinned(const void* at) { return holder(pinned, (u64)at) != pinned.end(); }
bool is_device(const void* at) { return (u64)at - memory.first < memory.reach; }

// Where bytes of an address lie for the host; null if an allocation ends before they do.
char* reach(const void* at, u64 bytes) {
    if (!is_device(at)) return (char*)at;
    auto found = holder(live, (u64)at);
    if (found == live.end() || (u64)at + bytes > found->first + found->second) return nullptr;
    return memory.at + ((u64)at - memory.first);
}

// ---- the queue ---------------------------------------------------------------------------------------------------------------

std::vector<std::function<Status()>> queue;
Status broken = SUCCESS;
u64 launches_left = 0;  // before one fails; 0: none does

Status settle() {
    auto asked = std::move(queue);
    queue.clear();
    for (auto& work : asked) {
        if (broken) break;
        broken = work();
    }
    return broken;
}

Status wait() {
    count("wait");
    return settle();
}

Status later(std::function<Status()> work) {
    if (settings.mode != IDLE) queue.push_back(std::move(work));
    return broken;
}

// ---- modules -----------------------------------------------------------------------------------------------------------------

struct Module {
    void* library;
};
struct Kernel {
    int (*run)(const Launch*);
    const u32* parameters;  // offset and size of each; a size of 0 ends them
    u32 bytes;
    std::string name;
};
}  // namespace

// ---- what tests say ----------------------------------------------------------------------------------------------------------

API void card_set(u64 bytes, int multiprocessors, int mode) {
    Locked here;
    start();
    if (settings.mode == IDLE && mode != IDLE) {  // which kept no account of what is allocated
        madvise(memory.valid, REACH / GRANULE * sizeof(u16), MADV_DONTNEED);
        for (auto& [first, size] : live) mark(first, size, true);
    }
    settings = {bytes, multiprocessors, mode, in_use};
}
API void card_translator(const char* (*function)(const char*)) { translate = function; }
API void card_mend() { Locked here; queue.clear(), broken = SUCCESS, launches_left = 0; }
API void card_fail_after(u64 launches) { Locked here; launches_left = launches + 1; }
API void card_forget_counts() { Locked here; counts.clear(); }
API u64 card_counts(char* out, u64 size) {  // lines "number what"; the size that they need
    Locked here;
    std::string text;
    for (auto& [what, n] : counts) text += std::to_string(n) + " " + what + "\n";
    if (text.size() < size) memcpy(out, text.c_str(), text.size() + 1);
    return text.size() + 1;
}

// ---- the device --------------------------------------------------------------------------------------------------------------

API Status cudaGetDeviceCount(int* n) { return *n = 1, SUCCESS; }
API Status cudaGetDevice(int* device) { return *device = 0, SUCCESS; }
API Status cudaSetDevice(int device) { return device ? INVALID_VALUE : SUCCESS; }
API Status cudaRuntimeGetVersion(int* version) { return *version = VERSION, SUCCESS; }
API Status cudaDriverGetVersion(int* version) { return *version = VERSION, SUCCESS; }
API Status cudaDeviceGetAttribute(int* value, int attribute, int) {
    enum { THREADS = 1, BLOCK_X = 2, BLOCK_Y, BLOCK_Z, GRID_X, GRID_Y, GRID_Z, SHARED, WARP = 10, PROCESSORS = 16, UNIFIED = 41, CC_MAJOR = 75, CC_MINOR };
    const std::map<int, int> known = {
        {THREADS, 1024}, {BLOCK_X, 1024}, {BLOCK_Y, 1024}, {BLOCK_Z, 64}, {GRID_X, 0x7FFFFFFF}, {GRID_Y, 65535}, {GRID_Z, 65535}, {SHARED, 48 << 10},
        {WARP, 32}, {PROCESSORS, settings.multiprocessors}, {UNIFIED, 1}, {CC_MAJOR, MAJOR}, {CC_MINOR, MINOR}};
    auto found = known.find(attribute);
    return *value = found == known.end() ? 0 : found->second, SUCCESS;
}
API Status cudaGetDeviceProperties(char* properties, int) {  // the name, and the size of its memory where CUDA 13 has it
    memset(properties, 0, 296);
    strcpy(properties, "no card");
    memcpy(properties + 288, &settings.bytes, 8);
    return SUCCESS;
}
API Status cudaMemGetInfo(u64* free, u64* total) {
    Locked here;
    return *total = settings.bytes, *free = left(), SUCCESS;
}
API const char* cudaGetErrorName(Status status) {
    switch (status) {
        case SUCCESS: return "cudaSuccess";
        case INVALID_VALUE: return "cudaErrorInvalidValue";
        case OUT_OF_MEMORY: return "cudaErrorMemoryAllocation";
        case INVALID_IMAGE: return "cudaErrorInvalidKernelImage";
        case NOT_FOUND: return "cudaErrorSymbolNotFound";
        case ILLEGAL_ADDRESS: return "cudaErrorIllegalAddress";
        case LAUNCH_FAILED: return "cudaErrorLaunchFailure";
        default: return "cudaErrorUnknown";
    }
}
API const char* cudaGetErrorString(Status status) { return cudaGetErrorName(status); }
API Status cudaGetLastError() { return SUCCESS; }
API Status cudaPeekAtLastError() { return SUCCESS; }
API Status cuGetErrorName(Status status, const char** name) { return *name = cudaGetErrorName(status), SUCCESS; }
API Status cuGetErrorString(Status status, const char** text) { return *text = cudaGetErrorName(status), SUCCESS; }
API Status cuInit(unsigned) { return SUCCESS; }
API Status cuGetExportTable(const void** table, const void*) { return *table = nullptr, NOT_FOUND; }  // NVRTC looks for its cache there
API Status cuCtxGetCurrent(void** context) { return *context = &memory, SUCCESS; }

// ---- allocations -------------------------------------------------------------------------------------------------------------

API Status cudaMalloc(void** at, u64 size) {
    Locked here;
    start();
    count("malloc", size);
    *at = nullptr;
    if (broken || !size) return broken;
    if (size > left()) return OUT_OF_MEMORY;
    u64 first = memory.first + GRANULE;
    for (auto& [other, length] : live) {  // a granule between any two belongs to nobody
        if (first + size + GRANULE <= other) break;
        first = std::max(first, (other + length + 2 * GRANULE - 1) / GRANULE * GRANULE);
    }
    if (first + size + GRANULE > memory.first + REACH) return OUT_OF_MEMORY;
    live[first] = size, in_use += size;
    if (settings.mode != IDLE) {
        mark(first, size, true);
        if (settings.mode == BUSY) memset(memory.at + (first - memory.first), 0xA5, size);
    }
    return *at = (void*)first, SUCCESS;
}
API Status cudaFree(void* at) {
    Locked here;
    if (!at) return broken;
    count("free");
    const Status status = settle();
    auto found = live.find((u64)at);
    if (found == live.end()) return fail(INVALID_VALUE, "an address is freed that was not allocated, or twice");
    const u64 offset = found->first - memory.first, page = (offset + PAGE - 1) / PAGE * PAGE;
    if (settings.mode != IDLE) mark(found->first, found->second, false);
    if (settings.mode != IDLE && offset + found->second > page) madvise(memory.at + page, (offset + found->second - page) / PAGE * PAGE, MADV_DONTNEED);
    in_use -= found->second;
    live.erase(found);
    return status;
}
API Status cudaHostAlloc(void** at, u64 size, unsigned) {
    Locked here;
    count("pin", size);
    if (broken) return broken;
    if (posix_memalign(at, PAGE, std::max<u64>(1, size))) return OUT_OF_MEMORY;
    memset(*at, settings.mode == BUSY ? 0xA5 : 0, size);
    pinned[(u64)*at] = size;
    tell_kernels_what_is_pinned();
    return SUCCESS;
}
API Status cudaFreeHost(void* at) {
    Locked here;
    const Status status = settle();
    if (!pinned.erase((u64)at)) return fail(INVALID_VALUE, "an address is freed that is not pinned, or twice");
    tell_kernels_what_is_pinned();
    return free(at), status;
}
struct PointerAttributes {
    int type, device;
    void *on_device, *on_host;
};
API Status cudaPointerGetAttributes(PointerAttributes* about, const void* at) {
    Locked here;
    *about = {0, 0, nullptr, nullptr};  // memory of the host that is not pinned
    if (is_device(at)) *about = {2, 0, (void*)at, nullptr};
    else if (is_pinned(at)) *about = {1, 0, (void*)at, (void*)at};
    return SUCCESS;
}

// ---- copies ------------------------------------------------------------------------------------------------------------------

namespace {
Status copy(void* to, const void* from, u64 bytes) {
    char *target = reach(to, bytes), *source = reach(from, bytes);
    if (!target || !source) return fail(INVALID_VALUE, "a copy passes the end of an allocation");
    return memmove(target, source, bytes), SUCCESS;
}
}  // namespace

API Status cudaMemcpyAsync(void* to, const void* from, u64 bytes, int kind, void*) {
    Locked here;
    const bool there = is_device(to), from_there = is_device(from);
    if ((kind == HOST_TO_DEVICE && (!there || from_there)) || (kind == DEVICE_TO_HOST && (there || !from_there)) ||
        (kind == DEVICE_TO_DEVICE && (!there || !from_there)))
        return fail(INVALID_VALUE, "a copy's direction is not that of its addresses");
    count(there ? from_there ? "copy within" : is_pinned(from) ? "queued there" : "copy there" : "copy back", bytes);
    if (settings.mode != BUSY && !there) return memset(to, bytes == 1, bytes), SUCCESS;  // a byte that comes back alone is a condition, and holds
    if (settings.mode == IDLE) return SUCCESS;
    if (!from_there && !is_pinned(from)) {  // what is not pinned is read before the call returns
        const std::string kept((const char*)from, bytes);
        return later([=] { return copy(to, kept.data(), bytes); });
    }
    if (!there && is_pinned(to)) memset(to, 0xA5, bytes);  // for whoever reads it too early
    const Status status = later([=] { return copy(to, from, bytes); });
    return there || is_pinned(to) ? status : settle();
}
API Status cudaMemcpy(void* to, const void* from, u64 bytes, int kind) {
    Locked here;
    const Status status = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
    return status ? status : wait();
}
API Status cudaMemsetAsync(void* to, int value, u64 bytes, void*) {
    Locked here;
    count("set", bytes);
    return later([=] {
        char* target = is_device(to) ? reach(to, bytes) : nullptr;
        if (!target) return fail(INVALID_VALUE, "memory is set past the end of an allocation");
        if (settings.mode == BUSY) memset(target, value, bytes);
        return (Status)SUCCESS;
    });
}
API Status cudaMemset(void* to, int value, u64 bytes) { return cudaMemsetAsync(to, value, bytes, nullptr); }

// ---- streams and events: there is one queue ------------------------------------------------------------------------------------

API Status cudaDeviceSynchronize() { Locked here; return wait(); }
API Status cudaStreamSynchronize(void*) { Locked here; return wait(); }
API Status cudaStreamIsCapturing(void*, int* capturing) { return *capturing = 0, SUCCESS; }
API Status cudaEventCreateWithFlags(void** event, unsigned) { count("event"); return *event = calloc(1, sizeof(double)), SUCCESS; }
API Status cudaEventCreate(void** event) { return cudaEventCreateWithFlags(event, 0); }
API Status cudaEventDestroy(void* event) { Locked here; settle(); return free(event), SUCCESS; }
API Status cudaEventRecord(void* event, void*) {
    Locked here;
    return later([=] {
        timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return *(double*)event = (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6, (Status)SUCCESS;
    });
}
API Status cudaEventQuery(void*) { Locked here; return settle(); }
API Status cudaEventSynchronize(void*) { Locked here; return wait(); }
API Status cudaEventElapsedTime(float* ms, void* a, void* b) { return *ms = (float)(*(double*)b - *(double*)a), SUCCESS; }

// ---- modules and launches ----------------------------------------------------------------------------------------------------

API Status cuModuleLoadData(void** module, const void* image) {
    if (!strstr((const char*)image, ".version")) return fail(INVALID_IMAGE, "a module is no PTX");
    const char* path = translate ? translate((const char*)image) : nullptr;  // it may want the interpreter's lock: hold none here
    if (!path) return fail(INVALID_IMAGE, "a module's PTX was not translated");
    Locked here;
    start();
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) return fail(INVALID_IMAGE, dlerror());
    *(Memory**)dlsym(library, "card_memory") = &memory;
    return *module = new Module{library}, SUCCESS;
}
API Status cuModuleLoadDataEx(void** module, const void* image, unsigned, void*, void*) { return cuModuleLoadData(module, image); }
API Status cuModuleUnload(Module* module) { Locked here; settle(); delete module; return SUCCESS; }
API Status cuModuleGetFunction(Kernel** function, Module* module, const char* name) {
    const std::string stem = std::string("card_") + name;
    void* run = dlsym(module->library, (stem + "_run").c_str());
    if (!run) return NOT_FOUND;
    auto* kernel = new Kernel{(int (*)(const Launch*))run, (const u32*)dlsym(module->library, (stem + "_parameters").c_str()), 0, name};
    for (const u32* p = kernel->parameters; p[1]; p += 2) kernel->bytes = p[0] + p[1];
    return *function = kernel, SUCCESS;
}
API Status cuFuncGetAttribute(int* value, int, void*) { return *value = 0, SUCCESS; }
API Status cuLaunchKernel(Kernel* kernel, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned dynamic, void*,
                          void** arguments, void** extra) {
    Locked here;
    const u64 threads = (u64)bx * by * bz;
    if (!gx || gx > 0x7FFFFFFF || !gy || gy > 65535 || !gz || gz > 65535 || !threads || threads > 1024 || dynamic > 48u << 10 || extra)
        return fail(INVALID_VALUE, kernel->name + ": a grid, a block or shared memory of a size that no card has");
    count("launch " + kernel->name);
    if (settings.mode == IDLE) return SUCCESS;
    std::string parameters(kernel->bytes + 1, '\0');
    for (const u32* p = kernel->parameters; p[1]; p += 2) memcpy(&parameters[p[0]], *arguments++, p[1]);
    const bool fails = launches_left && !--launches_left;
    return later([=] {
        if (fails) return fail(LAUNCH_FAILED, kernel->name + ": a fault that was ordered");
        const u32 some = settings.mode == SAMPLED ? std::min<u32>(gx, SAMPLE) : 0;
        u64 instructions = 0, bytes = 0;
        const Launch launch{parameters.data(), {gx, gy, gz}, {bx, by, bz}, dynamic, kernel->name.c_str(), some, &instructions, &bytes};
        const int fault = kernel->run(&launch);
        const double all = some ? (double)gx * gy * gz / some : 1;
        counts["instructions " + kernel->name] += (u64)(all * (double)instructions);
        counts["moved " + kernel->name] += (u64)(all * (double)bytes);
        return (Status)(fault == NO_FAULT ? SUCCESS : fault == BAD_ADDRESS ? ILLEGAL_ADDRESS : LAUNCH_FAILED);
    });
}
