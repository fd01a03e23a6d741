// A driver and a compiler by NVIDIA's names, as far as Kiln calls them: kernels' sources are compiled for the processor, with kernels.h before them.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fstream>
#include <iterator>
#include <regex>
#include <string>
#include <unistd.h>

extern "C" {

// As on devices with little of it: 99 KiB.
static const int SHARED = 99 * 1024;
static const int NO_CONTEXT = 201;
// Whether this thread may ask for something, and whether an error was the last word.
static thread_local bool has_context = false;
static int state()
{
    if (!has_context) return NO_CONTEXT;
    return access((std::string(getenv("EMULATED_FOLDER")) + "/lost").c_str(), F_OK) == 0 ? 700 : 0;
}

// What a device of that kind says of itself, by the attributes' numbers.
static int attribute(int number)
{
    switch (number) {
    case 16:
        return 4; // processors
    case 75:
        return 8; // capability, before the dot
    case 97:
        return SHARED; // of a block
    case 115:
        return 1; // pools of memory
    default:
        return 0;
    }
}

int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
int cuDeviceGetCount(int* count) { return *count = 1, 0; }
int cuDeviceGet(int* device, int number) { return *device = number, number == 0 ? 0 : 101; }
int cuDeviceGetName(char* name, int length, int) { return snprintf(name, length, "emulated"), 0; }
int cuDeviceGetAttribute(int* value, int number, int) { return *value = attribute(number), 0; }
int cuDevicePrimaryCtxRetain(void** context, int) { return *context = (void*)1, 0; }
int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
int cuCtxSetCurrent(void* context) { return has_context = context, 0; }
int cuCtxGetCurrent(void** context) { return *context = has_context ? (void*)1 : nullptr, 0; }
int cuEventCreate(void** event, unsigned) { return *event = (void*)1, 0; }
int cuEventDestroy_v2(void*) { return 0; }
int cuEventRecord(void*, void*) { return 0; }
int cuStreamWaitEvent(void*, void*, unsigned) { return 0; }
int cuStreamSynchronize(void*) { return state(); }
int cuGetErrorName(int, const char** text) { return *text = "CUDA_ERROR", 0; }
int cuGetErrorString(int, const char** text) { return *text = "an error of the emulated device", 0; }
// Aligned as a device's memory is, and without numbers at first.
int cuMemAllocAsync(unsigned long long* at, size_t bytes, void*)
{
    if (int error = state()) return error;
    void* room = aligned_alloc(256, (bytes + 255) / 256 * 256);
    memset(room, 0xff, (bytes + 255) / 256 * 256);
    return *at = (unsigned long long)room, 0;
}
int cuMemFreeAsync(unsigned long long at, void*)
{
    if (int error = state()) return error;
    return free((void*)at), 0;
}
int cuMemsetD8Async(unsigned long long at, unsigned char byte, size_t bytes, void*) { return memset((void*)at, byte, bytes), 0; }
int cuMemcpyHtoDAsync_v2(unsigned long long to, const void* from, size_t bytes, void*) { return memcpy((void*)to, from, bytes), 0; }
int cuMemcpyDtoHAsync_v2(void* to, unsigned long long from, size_t bytes, void*) { return memcpy(to, (void*)from, bytes), 0; }
int cuMemcpyDtoDAsync_v2(unsigned long long to, unsigned long long from, size_t bytes, void*) { return memcpy((void*)to, (void*)from, bytes), 0; }

// A source, its definitions before it.
int nvrtcCreateProgram(std::string** program, const char* source, const char*, int, const char* const*, const char* const*)
{
    return *program = new std::string(source), 0;
}
int nvrtcCompileProgram(std::string* program, int count, const char* const* options)
{
    std::string definitions;
    for (int i = 0; i < count; i++)
        if (!strncmp(options[i], "-D", 2)) {
            std::string one(options[i] + 2);
            definitions += "#define " + one.replace(one.find('='), 1, " ") + "\n";
        }
    *program = definitions + *program;
    return 0;
}
int nvrtcGetPTXSize(std::string* program, size_t* bytes) { return *bytes = program->size() + 1, 0; }
int nvrtcGetPTX(std::string* program, char* into) { return strcpy(into, program->c_str()), 0; }
int nvrtcGetProgramLogSize(std::string*, size_t* bytes) { return *bytes = 1, 0; }
int nvrtcGetProgramLog(std::string*, char* into) { return *into = 0; }
int nvrtcDestroyProgram(std::string** program) { return delete *program, 0; }
const char* nvrtcGetErrorString(int) { return "an error of the emulated compiler"; }

// Compiles the source, with a function of a plain signature for each kernel.
int cuModuleLoadData(void** module, const void* image)
{
    static int count = 0;
    const std::string source((const char*)image);
    const std::string path = std::string(getenv("EMULATED_FOLDER")) + "/module-" + std::to_string(getpid()) + "-" + std::to_string(count++);
    std::ofstream file(path + ".cpp");
    file << "#include <type_traits>\n#include <utility>\n#include \"" << getenv("EMULATED_KERNELS") << "\"\n" << source;
    const std::regex named(R"((?:^|\n)(?:PRODUCT\(|extern "C" __global__ void (?:__launch_bounds__\(\w+\) )?)(\w+)[,(])");
    for (std::sregex_iterator found(source.begin(), source.end(), named), end; found != end; ++found) {
        const std::string name = (*found)[1];
        file << "static void called_" << name << "(void** given) { emulated::call(" << name << ", given); }\n"
             << "extern \"C\" void emulated_" << name << "(dim3 grid, dim3 block, void** given) { emulated::launch(called_" << name
             << ", given, grid, block); }\n";
    }
    file.close();
    const std::string command = "c++ -std=c++17 -O2 -w -fno-strict-aliasing -ffp-contract=off -shared -fPIC -o " + path + ".so " + path + ".cpp";
    if (system(command.c_str()) != 0) return 218;
    *module = dlopen((path + ".so").c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!*module) fprintf(stderr, "%s\n", dlerror());
    return *module ? 0 : 218;
}
int cuModuleUnload(void*) { return 0; }
int cuModuleGetFunction(void** function, void* module, const char* name)
{
    *function = dlsym(module, (std::string("emulated_") + name).c_str());
    return *function ? 0 : 500;
}
int cuFuncSetAttribute(void*, int number, int value) { return number == 8 && value > SHARED ? 1 : 0; }

struct Dimensions {
    unsigned x, y, z;
};
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned, void*,
    void** given, void**)
{
    if (int error = state()) return error;
    ((void (*)(Dimensions, Dimensions, void**))function)({gx, gy, gz}, {bx, by, bz}, given);
    return 0;
}
}
