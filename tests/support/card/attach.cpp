// CuPy's modules carry NVIDIA's runtime inside of them, linked statically, and it wants a real driver. So where one of its functions
// begins, a jump to ours (runtime.cpp) is written; one that we do not have says so.
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {
enum : uint16_t { MOVE_TO_RAX = 0xB848, MOVE_TO_RDI = 0xBF48, JUMP_TO_RAX = 0xE0FF };  // movabs, movabs, jmp
enum { JUMP = 12, STUB = 22, PAGE = 4096, STUBS = 1 << 17 };

int absent(const char* name) {
    fprintf(stderr, "card: %s is not there\n", name);
    return 801;  // cudaErrorNotSupported
}

char* move(char* at, uint16_t instruction, const void* word) {
    memcpy(at, &instruction, 2), memcpy(at + 2, &word, 8);
    return at + 10;
}

void jump(char* at, const void* target) {
    const uint16_t instruction = JUMP_TO_RAX;
    memcpy(move(at, MOVE_TO_RAX, target), &instruction, 2);
}

void* mapped(void* at, size_t size, int flags, int file) {
    void* made = mmap(at, size, flags & MAP_ANONYMOUS ? PROT_READ | PROT_WRITE | PROT_EXEC : PROT_READ, flags, file, 0);
    return made == MAP_FAILED ? nullptr : made;
}
}  // namespace

// How many functions of a loaded module, a file of this path, were replaced; -1 if it cannot be read.
extern "C" __attribute__((visibility("default"))) int card_attach(void* module, void* card, const char* path) {
    link_map* map;
    struct stat about;
    const int file = open(path, O_RDONLY);
    if (file < 0 || fstat(file, &about) || dlinfo(module, RTLD_DI_LINKMAP, &map)) return -1;
    const char* text = (const char*)mapped(nullptr, (size_t)about.st_size, MAP_PRIVATE, file);
    close(file);
    char *stub = (char*)mapped(nullptr, STUBS, MAP_PRIVATE | MAP_ANONYMOUS, -1), *stubs_end = stub + STUBS;
    if (!text || !stub) return -1;
    const auto* header = (const Elf64_Ehdr*)text;
    const auto* sections = (const Elf64_Shdr*)(text + header->e_shoff);
    int replaced = 0;
    for (int s = 0; s < header->e_shnum; ++s) {
        if (sections[s].sh_type != SHT_SYMTAB) continue;
        const auto* symbols = (const Elf64_Sym*)(text + sections[s].sh_offset);
        const char* names = text + sections[sections[s].sh_link].sh_offset;
        for (size_t k = 0; k < sections[s].sh_size / sizeof *symbols; ++k) {
            const char* name = names + symbols[k].st_name;
            if (ELF64_ST_TYPE(symbols[k].st_info) != STT_FUNC || strncmp(name, "cuda", 4) || symbols[k].st_size < JUMP) continue;
            char* at = (char*)map->l_addr + symbols[k].st_value;
            char* page = (char*)((uintptr_t)at / PAGE * PAGE);
            const size_t length = (size_t)(at + JUMP - page);
            if (mprotect(page, length, PROT_READ | PROT_WRITE | PROT_EXEC)) return -1;
            if (void* ours = dlsym(card, name)) {
                jump(at, ours), ++replaced;
            } else if (stub + STUB <= stubs_end) {
                jump(move(stub, MOVE_TO_RDI, strdup(name)), (const void*)absent);
                jump(at, stub), stub += STUB;
            } else {
                return -1;
            }
            mprotect(page, length, PROT_READ | PROT_EXEC);
        }
    }
    munmap((void*)text, (size_t)about.st_size);
    return replaced;
}
