// Checks of a step's arrays. Each throws PAGODA_INVALID with a sentence that names the array.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "failure.h"

namespace pagoda {

inline void checkLength(const char* name, size_t length, size_t expected) {
  require(length == expected,
          std::string(name) + " must have " + std::to_string(expected) + " elements but has " + std::to_string(length));
}

template <typename T>
void checkRange(const char* name, const std::vector<T>& values, T low, T high) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] >= low && values[i] <= high) continue;  // false for NaN, too
    throw Failure(PAGODA_INVALID,
                  std::string(name) + "[" + std::to_string(i) + "] is " + std::to_string(values[i]) + ", out of range");
  }
}

}  // namespace pagoda
