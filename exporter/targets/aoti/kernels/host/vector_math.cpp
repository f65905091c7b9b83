// The functions of Sleef that at::vec calls, which libtorch has and packages without it have not.
// Only exp is common enough in graphs to be computed a register at a time.
#include "vector_math.h"

#include <immintrin.h>

#include <cmath>

// sleef.h declares these, as far as the compiler's flags allow their registers.
#include <sleef.h>

namespace {

template <class T, class Registers, class Function>
Registers each(Registers x, Function function) {
  T numbers[sizeof(Registers) / sizeof(T)];
  __builtin_memcpy(numbers, &x, sizeof x);
  for (T& number : numbers) number = function(number);
  __builtin_memcpy(&x, numbers, sizeof x);
  return x;
}

template <class T, class Registers, class Function>
Registers each(Registers x, Registers y, Function function) {
  T numbers[sizeof(Registers) / sizeof(T)], others[sizeof(Registers) / sizeof(T)];
  __builtin_memcpy(numbers, &x, sizeof x);
  __builtin_memcpy(others, &y, sizeof y);
  for (size_t lane = 0; lane < sizeof(Registers) / sizeof(T); lane++)
    numbers[lane] = function(numbers[lane], others[lane]);
  __builtin_memcpy(&x, numbers, sizeof x);
  return x;
}

}  // namespace

#define EXPORTER_UNARY(name, function, T, Registers) \
  Registers Sleef_##name(Registers x) {              \
    return each<T>(x, [](T lane) { return std::function(lane); }); \
  }
#define EXPORTER_BINARY(name, function, T, Registers)    \
  Registers Sleef_##name(Registers x, Registers y) {     \
    return each<T>(x, y, [](T a, T b) { return std::function(a, b); }); \
  }
#define EXPORTER_ALL(suffix, T, Registers)                         \
  EXPORTER_UNARY(acos##suffix##_u10, acos, T, Registers)           \
  EXPORTER_UNARY(acosh##suffix##_u10, acosh, T, Registers)         \
  EXPORTER_UNARY(asin##suffix##_u10, asin, T, Registers)           \
  EXPORTER_UNARY(asinh##suffix##_u10, asinh, T, Registers)         \
  EXPORTER_UNARY(atan##suffix##_u10, atan, T, Registers)           \
  EXPORTER_UNARY(atanh##suffix##_u10, atanh, T, Registers)         \
  EXPORTER_UNARY(cos##suffix##_u10, cos, T, Registers)             \
  EXPORTER_UNARY(cos##suffix##_u35, cos, T, Registers)             \
  EXPORTER_UNARY(cosh##suffix##_u10, cosh, T, Registers)           \
  EXPORTER_UNARY(erf##suffix##_u10, erf, T, Registers)             \
  EXPORTER_UNARY(erfc##suffix##_u15, erfc, T, Registers)           \
  EXPORTER_UNARY(exp2##suffix##_u10, exp2, T, Registers)           \
  EXPORTER_UNARY(expm1##suffix##_u10, expm1, T, Registers)         \
  EXPORTER_UNARY(lgamma##suffix##_u10, lgamma, T, Registers)       \
  EXPORTER_UNARY(log##suffix##_u10, log, T, Registers)             \
  EXPORTER_UNARY(log10##suffix##_u10, log10, T, Registers)         \
  EXPORTER_UNARY(log1p##suffix##_u10, log1p, T, Registers)         \
  EXPORTER_UNARY(log2##suffix##_u10, log2, T, Registers)           \
  EXPORTER_UNARY(sin##suffix##_u10, sin, T, Registers)             \
  EXPORTER_UNARY(sin##suffix##_u35, sin, T, Registers)             \
  EXPORTER_UNARY(sinh##suffix##_u10, sinh, T, Registers)           \
  EXPORTER_UNARY(tan##suffix##_u10, tan, T, Registers)             \
  EXPORTER_UNARY(tanh##suffix##_u10, tanh, T, Registers)           \
  EXPORTER_BINARY(atan2##suffix##_u10, atan2, T, Registers)        \
  EXPORTER_BINARY(copysign##suffix, copysign, T, Registers)        \
  EXPORTER_BINARY(fmod##suffix, fmod, T, Registers)                \
  EXPORTER_BINARY(hypot##suffix##_u05, hypot, T, Registers)        \
  EXPORTER_BINARY(nextafter##suffix, nextafter, T, Registers)      \
  EXPORTER_BINARY(pow##suffix##_u10, pow, T, Registers)

extern "C" {

EXPORTER_ALL(f8, float, __m256)
EXPORTER_ALL(d4, double, __m256d)
EXPORTER_UNARY(expd4_u10, exp, double, __m256d)
__m256 Sleef_expf8_u10(__m256 x) { return exporter::exponential<8>(x); }

#ifdef __AVX512F__
EXPORTER_ALL(f16, float, __m512)
EXPORTER_ALL(d8, double, __m512d)
EXPORTER_UNARY(expd8_u10, exp, double, __m512d)
__m512 Sleef_expf16_u10(__m512 x) { return exporter::exponential<16>(x); }
#endif

}  // extern "C"
