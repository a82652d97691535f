// A test program in four words: CHECK, CHECK_CLOSE, section, finish. One translation unit a program.
#ifndef PAGODA_TEST_CHECK_H
#define PAGODA_TEST_CHECK_H

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <string>

namespace pagoda::test {

struct Report {
  long passed = 0;
  long failed = 0;
  std::string section;
};

inline Report& report() {
  static Report instance;
  return instance;
}

__attribute__((format(printf, 1, 2))) inline std::string text(const char* format, ...) {
  char buffer[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  return buffer;
}

inline std::string text() { return ""; }

// What the following checks are about; printed with each failure.
inline void section(const std::string& name) { report().section = name; }

inline bool check(bool condition, const char* file, int line, const char* expression, const std::string& context) {
  constexpr long kShown = 40;
  Report& r = report();
  (condition ? r.passed : r.failed) += 1;
  if (!condition && r.failed <= kShown) {
    std::printf("%s:%d: [%s] %s: %s\n", file, line, r.section.c_str(), expression, context.c_str());
  }
  return condition;
}

// Prints the totals; the program's exit code.
inline int finish() {
  std::printf("%ld passed, %ld failed\n", report().passed, report().failed);
  return report().failed == 0 ? 0 : 1;
}

}  // namespace pagoda::test

// CHECK(condition) or CHECK(condition, "format", ...)
#define CHECK(condition, ...) \
  ::pagoda::test::check(static_cast<bool>(condition), __FILE__, __LINE__, #condition, ::pagoda::test::text(__VA_ARGS__))

// |received - expected| <= tolerance * max(1, |expected|); not for NaN.
#define CHECK_CLOSE(received, expected, tolerance, context)                                                    \
  do {                                                                                                         \
    const double checkReceived = (received);                                                                   \
    const double checkExpected = (expected);                                                                   \
    const double checkBound = (tolerance) * std::fmax(1.0, std::fabs(checkExpected));                          \
    ::pagoda::test::check(std::fabs(checkReceived - checkExpected) <= checkBound, __FILE__, __LINE__, #received, \
                          ::pagoda::test::text("received %.9g, expected %.9g at %s", checkReceived,            \
                                               checkExpected, std::string(context).c_str()));                  \
  } while (0)

#endif
