// dxc LIBRARY PROFILE FILE.hlsl: compiles `main` to DXIL through libdxcompiler's C++ interfaces, of which only what is called
// here is declared, in the order of their tables. Prints the errors; ends with 1 if there are any.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>

struct Guid {
    uint32_t a;
    uint16_t b, c;
    uint8_t d[8];
};
struct Unknown {
    virtual int32_t QueryInterface(const Guid&, void**) = 0;
    virtual uint32_t AddRef() = 0;
    virtual uint32_t Release() = 0;
    virtual ~Unknown() {}  // libdxcompiler.so up to 3.7 has one here outside Windows
};
struct Blob : Unknown {
    virtual void* GetBufferPointer() = 0;
    virtual size_t GetBufferSize() = 0;
};
struct Buffer {
    const void* bytes;
    size_t size;
    uint32_t encoding;
};
struct Result : Unknown {
    virtual int32_t GetStatus(int32_t*) = 0;
    virtual int32_t GetResult(Blob**) = 0;
    virtual int32_t GetErrorBuffer(Blob**) = 0;
};
struct Compiler3 : Unknown {
    virtual int32_t Compile(const Buffer*, const wchar_t**, uint32_t, void*, const Guid&, void**) = 0;
};

static const Guid CLSID_COMPILER = {0x73e22d93, 0xe6ce, 0x47f3, {0xb5, 0xbf, 0xf0, 0x66, 0x4f, 0x39, 0xc1, 0xb0}};
static const Guid IID_COMPILER3 = {0x228b4687, 0x5a6a, 0x4730, {0x90, 0x0c, 0x97, 0x02, 0xb2, 0x20, 0x3f, 0x54}};
static const Guid IID_RESULT = {0x58346cda, 0xdde7, 0x4497, {0x94, 0x61, 0x6f, 0x87, 0xaf, 0x5e, 0x06, 0x59}};
static const uint32_t UTF8 = 65001;

int main(int count, char** words) {
    if (count != 4) return fprintf(stderr, "dxc LIBRARY PROFILE FILE.hlsl\n"), 2;
    void* library = dlopen(words[1], RTLD_NOW);
    if (!library) return fprintf(stderr, "error: %s\n", dlerror()), 2;
    auto create = reinterpret_cast<int32_t (*)(const Guid&, const Guid&, void**)>(dlsym(library, "DxcCreateInstance"));
    Compiler3* compiler = nullptr;
    if (!create || create(CLSID_COMPILER, IID_COMPILER3, reinterpret_cast<void**>(&compiler)))
        return fprintf(stderr, "error: the library makes no compiler\n"), 2;
    std::ifstream file(words[3], std::ios::binary);
    std::stringstream read;
    read << file.rdbuf();
    const std::string source = read.str(), profile = words[2];
    const std::wstring wide(profile.begin(), profile.end());
    const wchar_t* arguments[] = {L"-E", L"main", L"-T", wide.c_str(), L"-HV", L"2018", L"-no-warnings", L"-Vd", L"-O3"};
    const Buffer buffer{source.data(), source.size(), UTF8};
    Result* result = nullptr;
    int32_t status = compiler->Compile(&buffer, arguments, 9, nullptr, IID_RESULT, reinterpret_cast<void**>(&result));
    if (status || !result) return fprintf(stderr, "error: compiling ended with %x\n", status), 2;
    Blob* errors = nullptr;
    result->GetErrorBuffer(&errors);
    if (errors && errors->GetBufferSize() > 1) printf("%s\n", static_cast<char*>(errors->GetBufferPointer()));
    result->GetStatus(&status);
    return status ? 1 : 0;
}
