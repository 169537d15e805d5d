// What the Python side calls through ctypes.
#include <new>

#include "run.h"

#if defined(__x86_64__)
static const Engine& engine(int32_t set) { return set == 2 ? engine_avx512 : set == 1 ? engine_avx2 : engine_baseline; }
#else
static const Engine& engine(int32_t) { return engine_baseline; }
#endif

extern "C" {

// best instruction set here: 0 what every machine of this kind has, 1 AVX2 + FMA, 2 AVX-512
int32_t ppm_instruction_set() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("fma"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

// Each returns 0, or the fault that run_fault() found, and has then touched no memory but the run's description.
int32_t ppm_sizes(const Run* run, Sizes* sizes) {
    if (!run || !sizes) return FAULT_POINTER;
    const int32_t fault = run_fault(*run);
    if (!fault) *sizes = run_sizes(*run);
    return fault;
}

int32_t ppm_forward(int32_t set, const Run* run, const float* input, float* saved, float* scratch, float* output) {
    if (!run || !input || !saved || !scratch || !output) return FAULT_POINTER;
    int32_t fault = run_fault(*run);
    if (!fault) fault = forward_fault(*run);
    if (!fault) engine(set).forward(*run, input, saved, scratch, output);
    return fault;
}

int32_t ppm_backward(int32_t set, const Run* run, const float* input, float* saved, float* scratch,
                     const float* output_grad, float* input_grad) {
    if (!run || !input || !saved || !scratch || !output_grad) return FAULT_POINTER;
    int32_t fault = run_fault(*run);
    if (!fault) fault = gradient_fault(*run, input_grad);
    if (!fault) engine(set).backward(*run, input, saved, scratch, output_grad, input_grad);
    return fault;
}

}  // extern "C"
