// A test program in four words: CHECK, CHECK_CLOSE, section, finish. One translation unit a program.
#ifndef PAGODA_TEST_CHECK_H
#define PAGODA_TEST_CHECK_H

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <string>

namespace pagoda::test {

// A section is what is counted: it has passed unless one of its checks failed.
struct Report {
  long passed = 0;  // sections that have ended
  long failed = 0;
  long failedChecks = 0;  // of the section under way
  long shown = 0;         // failures printed
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

inline void endSection() {
  Report& r = report();
  if (!r.section.empty()) (r.failedChecks == 0 ? r.passed : r.failed) += 1;
  r.section.clear();
  r.failedChecks = 0;
}

// What the following checks are about; printed with each failure.
inline void section(const std::string& name) {
  endSection();
  report().section = name;
}

// Counts a check that failed and prints the first ones.
inline void failed(const char* file, int line, const char* expression, const std::string& context) {
  constexpr long kShown = 40;
  Report& r = report();
  r.failedChecks += 1;
  if (++r.shown > kShown) return;
  std::printf("%s:%d: [%s] %s: %s\n", file, line, r.section.c_str(), expression, context.c_str());
}

// Prints the totals; the program's exit code.
inline int finish() {
  endSection();
  std::printf("%ld passed, %ld failed\n", report().passed, report().failed);
  return report().failed == 0 ? 0 : 1;
}

}  // namespace pagoda::test

// CHECK(condition) or CHECK(condition, "format", ...); the format's arguments are evaluated only on failure.
#define CHECK(condition, ...)                                                                    \
  do {                                                                                           \
    if (!(condition)) {                                                                          \
      ::pagoda::test::failed(__FILE__, __LINE__, #condition, ::pagoda::test::text(__VA_ARGS__)); \
    }                                                                                            \
  } while (0)

// |received - expected| <= tolerance * max(1, |expected|); fails for NaN. `context` is evaluated only on failure.
#define CHECK_CLOSE(received, expected, tolerance, context)                                                           \
  do {                                                                                                                \
    const double checkReceived = (received);                                                                          \
    const double checkExpected = (expected);                                                                          \
    const double checkBound = (tolerance)*std::fmax(1.0, std::fabs(checkExpected));                                   \
    if (!(std::fabs(checkReceived - checkExpected) <= checkBound)) {                                                  \
      ::pagoda::test::failed(__FILE__, __LINE__, #received,                                                           \
                             ::pagoda::test::text("received %.9g, expected %.9g at %s", checkReceived, checkExpected, \
                                                  std::string(context).c_str()));                                     \
    }                                                                                                                 \
  } while (0)

#endif
