/* The most multiply-adds a second that this CPU's instructions give: fp32, bf16 and INT8 into INT32,
 * on one core and on several at once.
 *
 *     cc -O3 -march=native -pthread peak.c -o peak && ./peak THREADS SECONDS
 *
 * Prints JSON. Every kernel keeps as many independent sums in registers as there are, and touches
 * no memory: what a matrix product can at best come near to. Which instructions are used is decided
 * by what the compiler says the CPU has; a type without any is null.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__x86_64__)
#define KEEP(x) __asm__ volatile("" : "+v"(x)) /* in its register, whatever can be foreseen of it */
#else
#define KEEP(x) __asm__ volatile("" : "+w"(x))
#endif

/* A kernel: STEPS rounds over SUMS independent sums of vector type V, each a variable of its own,
 * because compilers keep arrays in memory. */
#define STEPS 4096
#define TIMES8(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7)
#define TIMES12(F) TIMES8(F) F(8) F(9) F(10) F(11)
#define TIMES24(F)                                                                      \
    TIMES12(F) F(12) F(13) F(14) F(15) F(16) F(17) F(18) F(19) F(20) F(21) F(22) F(23)
#define DECLARE(i) vector sum##i = {0};
#define ADD(i) sum##i = add(sum##i); KEEP(sum##i);
#define KERNEL(name, SUMS)                                            \
    static void name(void) {                                          \
        TIMES##SUMS(DECLARE)                                          \
        for (int step = 0; step < STEPS; step++) { TIMES##SUMS(ADD) } \
    }

/* ---- fp32 ---- */
#if defined(__AVX512F__)
#define FP32 "AVX-512 FMA"
#define FP32_MACS (24 * 16)
#define vector __m512
#define add(sum) _mm512_fmadd_ps(_mm512_set1_ps(1.5f), _mm512_set1_ps(1e-3f), sum)
KERNEL(fp32, 24)
#elif defined(__AVX2__) && defined(__FMA__)
#define FP32 "AVX2 FMA"
#define FP32_MACS (12 * 8)
#define vector __m256
#define add(sum) _mm256_fmadd_ps(_mm256_set1_ps(1.5f), _mm256_set1_ps(1e-3f), sum)
KERNEL(fp32, 12)
#elif defined(__aarch64__)
#define FP32 "NEON FMLA"
#define FP32_MACS (24 * 4)
#define vector float32x4_t
#define add(sum) vfmaq_f32(sum, vdupq_n_f32(1.5f), vdupq_n_f32(1e-3f))
KERNEL(fp32, 24)
#endif

/* ---- AMX: tiles 0 to 3 are sums of 16 x 16, the others factors ---- */
#if defined(__AMX_TILE__) && (defined(__AMX_BF16__) || defined(__AMX_INT8__))
#include <sys/syscall.h>
#define USES_AMX
#define REQUEST_TILES 0x1023 /* ARCH_REQ_XCOMP_PERM */
#define TILE_DATA 18         /* XFEATURE_XTILEDATA */
static void set_tiles(void) {
    struct {
        unsigned char palette, start, reserved[14];
        unsigned short bytes[16];
        unsigned char rows[16];
    } shape = {.palette = 1};
    for (int i = 0; i < 8; i++) shape.bytes[i] = 64, shape.rows[i] = 16;
    _tile_loadconfig(&shape);
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    _tile_zero(4); _tile_zero(5); _tile_zero(6); _tile_zero(7);
}
#define AMX_KERNEL(name, PRODUCT)                             \
    static void name(void) {                                  \
        for (int step = 0; step < STEPS; step++) {            \
            PRODUCT(0, 4, 6); PRODUCT(1, 4, 7);               \
            PRODUCT(2, 5, 6); PRODUCT(3, 5, 7);               \
        }                                                     \
    }
#endif

#undef vector
#undef add

/* ---- bf16 ---- */
#if defined(USES_AMX) && defined(__AMX_BF16__)
#define BF16 "AMX BF16"
#define BF16_MACS (4 * 16 * 16 * 32)
AMX_KERNEL(bf16, _tile_dpbf16ps)
#elif defined(__AVX512BF16__)
#define BF16 "AVX-512 BF16"
#define BF16_MACS (24 * 32)
static const unsigned short ONES[32] __attribute__((aligned(64))) = {0x3f80};
#define vector __m512
#define add(sum) _mm512_dpbf16_ps(sum, *(const __m512bh *)ONES, *(const __m512bh *)ONES)
KERNEL(bf16, 24)
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define BF16 "NEON BFMMLA"
#define BF16_MACS (24 * 16)
#define vector float32x4_t
#define add(sum)                                          \
    vbfmmlaq_f32(sum, vdupq_n_bf16(vcvth_bf16_f32(1)), \
                 vdupq_n_bf16(vcvth_bf16_f32(1)))
KERNEL(bf16, 24)
#endif

#undef vector
#undef add

/* ---- INT8 ---- */
#if defined(USES_AMX) && defined(__AMX_INT8__)
#define INT8 "AMX INT8"
#define INT8_MACS (4 * 16 * 16 * 64)
AMX_KERNEL(int8, _tile_dpbusd)
#elif defined(__AVX512VNNI__)
#define INT8 "AVX-512 VNNI"
#define INT8_MACS (24 * 64)
#define vector __m512i
#define add(sum) _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(3), _mm512_set1_epi8(5))
KERNEL(int8, 24)
#elif defined(__AVXVNNI__)
#define INT8 "AVX-VNNI"
#define INT8_MACS (12 * 32)
#define vector __m256i
#define add(sum) _mm256_dpbusd_avx_epi32(sum, _mm256_set1_epi8(3), _mm256_set1_epi8(5))
KERNEL(int8, 12)
#elif defined(__AVX2__)
#define INT8 "AVX2 VPMADDUBSW" /* three instructions: products, pairs of pairs, sum */
#define INT8_MACS (8 * 32)
static inline __m256i add_products(__m256i sum) {
    __m256i factor = _mm256_set1_epi8(3);
    KEEP(factor); /* else the compiler would multiply once for all */
    __m256i pairs = _mm256_maddubs_epi16(factor, _mm256_set1_epi8(5));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#define vector __m256i
#define add add_products
KERNEL(int8, 8)
#elif defined(__ARM_FEATURE_MATMUL_INT8)
#define INT8 "NEON SMMLA"
#define INT8_MACS (24 * 32)
#define vector int32x4_t
#define add(sum) vmmlaq_s32(sum, vdupq_n_s8(3), vdupq_n_s8(5))
KERNEL(int8, 24)
#elif defined(__ARM_FEATURE_DOTPROD)
#define INT8 "NEON SDOT"
#define INT8_MACS (24 * 16)
#define vector int32x4_t
#define add(sum) vdotq_s32(sum, vdupq_n_s8(3), vdupq_n_s8(5))
KERNEL(int8, 24)
#endif

typedef struct {
    void (*kernel)(void);
    double macs, seconds, rate; /* macs: of one step; rate: of this thread, a second */
    pthread_barrier_t *start;
} Task;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static void *work(void *argument) {
    Task *task = argument;
#ifdef USES_AMX
    set_tiles();
#endif
    task->kernel();
    pthread_barrier_wait(task->start);
    double begin = now(), elapsed = 0, runs = 0;
    while (elapsed < task->seconds) task->kernel(), runs++, elapsed = now() - begin;
    task->rate = runs * STEPS * task->macs / elapsed;
    return NULL;
}

static double measure(void (*kernel)(void), double macs, int threads, double seconds) {
    pthread_t ids[threads];
    Task tasks[threads];
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, threads);
    double rate = 0;
    for (int i = 0; i < threads; i++) {
        tasks[i] = (Task){kernel, macs, seconds, 0, &start};
        if (pthread_create(&ids[i], NULL, work, &tasks[i])) exit(1);
    }
    for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL), rate += tasks[i].rate;
    pthread_barrier_destroy(&start);
    return rate;
}

static void report(const char *type, const char *by, void (*kernel)(void), double macs, int threads,
                   double seconds, const char *end) {
    if (!kernel) {
        printf("\"%s\": null%s", type, end);
        return;
    }
    printf("\"%s\": {\"instructions\": \"%s\", \"core_gmacs\": %.3f, \"all_gmacs\": %.3f}%s", type,
           by, 1e-9 * measure(kernel, macs, 1, seconds),
           1e-9 * measure(kernel, macs, threads, seconds), end);
}

int main(int count, char **arguments) {
    if (count != 3) return fputs("usage: peak THREADS SECONDS\n", stderr), 2;
    int threads = atoi(arguments[1]);
    double seconds = atof(arguments[2]);
#ifdef USES_AMX
    if (syscall(SYS_arch_prctl, REQUEST_TILES, TILE_DATA)) return perror("AMX"), 1;
#endif
    printf("{");
#ifdef FP32
    report("fp32", FP32, fp32, FP32_MACS, threads, seconds, ", ");
#else
    report("fp32", "", NULL, 0, threads, seconds, ", ");
#endif
#ifdef BF16
    report("bf16", BF16, bf16, BF16_MACS, threads, seconds, ", ");
#else
    report("bf16", "", NULL, 0, threads, seconds, ", ");
#endif
#ifdef INT8
    report("int8", INT8, int8, INT8_MACS, threads, seconds, "}\n");
#else
    report("int8", "", NULL, 0, threads, seconds, "}\n");
#endif
    return 0;
}
