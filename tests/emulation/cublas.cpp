// What libcublas exports, as far as the engine calls it by its C interface; Python says what it does (cublas.py).
using Gemm = int (*)(void*, int, int, int, int, int, const void*, const void*, int, int, long long, const void*, int, int,
                     long long, const void*, void*, int, int, long long, int, int, int);

extern "C" {
int (*set_stream)(void*, void*);
int (*set_workspace)(void*, void*, unsigned long);
Gemm gemm;

int cublasSetStream_v2(void* handle, void* stream) { return set_stream(handle, stream); }

int cublasSetWorkspace_v2(void* handle, void* workspace, unsigned long size) {
    return set_workspace(handle, workspace, size);
}

int cublasGemmStridedBatchedEx(void* handle, int transa, int transb, int m, int n, int k, const void* alpha,
                               const void* a, int a_type, int lda, long long a_step, const void* b, int b_type, int ldb,
                               long long b_step, const void* beta, void* c, int c_type, int ldc, long long c_step,
                               int batch, int compute, int algorithm) {
    return gemm(handle, transa, transb, m, n, k, alpha, a, a_type, lda, a_step, b, b_type, ldb, b_step, beta, c, c_type,
                ldc, c_step, batch, compute, algorithm);
}
}
