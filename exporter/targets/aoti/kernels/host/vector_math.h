// exp of a register of numbers, within two units in the last place.
#pragma once

#include <cstdint>

namespace exporter {

template <int lanes>
struct Register;

template <>
struct Register<8> {
  using Floats = float __attribute__((vector_size(32)));
  using Ints = int32_t __attribute__((vector_size(32)));
};

template <>
struct Register<16> {
  using Floats = float __attribute__((vector_size(64)));
  using Ints = int32_t __attribute__((vector_size(64)));
};

// 2^n times a polynomial of the rest: cephes' expf. Its bounds lie where results are 0 and infinite.
template <int lanes>
typename Register<lanes>::Floats exponential(typename Register<lanes>::Floats x) {
  using Floats = typename Register<lanes>::Floats;
  using Ints = typename Register<lanes>::Ints;
  x = x > 89.0F ? Floats{} + 89.0F : x;  // a NaN stays
  x = x < -104.0F ? Floats{} - 104.0F : x;
  // Adding the large number leaves the nearest whole one in the lowest bits.
  const Floats whole = (x * 1.44269504F + 12582912.0F) - 12582912.0F;
  Floats rest = x - whole * 0.693359375F;
  rest = rest + whole * 2.12194440e-4F;
  Floats sum = rest * 1.9875691500e-4F + 1.3981999507e-3F;
  sum = sum * rest + 8.3334519073e-3F;
  sum = sum * rest + 4.1665795894e-2F;
  sum = sum * rest + 1.6666665459e-1F;
  sum = sum * rest + 5.0000001201e-1F;
  sum = sum * rest * rest + rest + 1.0F;
  // In two steps, so that neither power leaves the range of normal numbers.
  const Ints power = __builtin_convertvector(whole, Ints), half = power >> 1;
  const auto two_to = [](Ints exponent) {
    return reinterpret_cast<Floats>((exponent + 127) << 23);
  };
  return sum * two_to(half) * two_to(power - half);
}

}  // namespace exporter
