// Exceptions, and the one cold function that builds their messages.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "dropin/abi/abi.h"
#include "dropin/core/compatible.h"

namespace dropin {

class Shape;
struct Device;

/// Base of everything dropin throws. what() says who, what was expected, what came.
class Error : public std::runtime_error {
  using std::runtime_error::runtime_error;
};
class ShapeError : public Error {
  using Error::Error;
};  ///< sizes that do not fit
class DTypeError : public Error {
  using Error::Error;
};  ///< element types that do not fit
class DeviceError : public Error {
  using Error::Error;
};  ///< no such device, mixed devices, no kernel there
class OptionError : public Error {
  using Error::Error;
};  ///< unknown name or option, value out of range
class IndexError : public Error {
  using Error::Error;
};  ///< index or dimension out of range
class FileError : public Error {
  using Error::Error;
};  ///< missing, malformed or unwritable file
class AutogradError : public Error {
  using Error::Error;
};  ///< misuse of the tape
class StateError : public Error {
  using Error::Error;
};  ///< a state_dict that does not fit
class OutOfMemoryError : public Error {
  using Error::Error;
};  ///< the allocator failed; the library still works

/// One piece of a message.
class Part {
 public:
  Part(const char* s) : kind_(kText), text_(s ? s : "") {}
  Part(std::string_view s) : kind_(kText), text_(s) {}
  Part(const std::string& s) : kind_(kText), text_(s) {}
  Part(int v) : kind_(kInt), int_(v) {}
  Part(long v) : kind_(kInt), int_(v) {}
  Part(long long v) : kind_(kInt), int_(v) {}
  Part(unsigned v) : kind_(kInt), int_(v) {}
  Part(unsigned long v) : kind_(kInt), int_(static_cast<int64_t>(v)) {}
  Part(double v) : kind_(kReal), real_(v) {}
  Part(bool v) : kind_(kText), text_(v ? "true" : "false") {}
  Part(DType t);
  Part(const Shape& s) : kind_(kShape), shape_(&s) {}
  Part(const Device& d) : kind_(kDevice), device_(&d) {}
  void append_to(std::string& out) const;

 private:
  enum Kind { kText, kInt, kReal, kShape, kDevice } kind_;
  std::string_view text_;
  union {
    int64_t int_;
    double real_;
    const Shape* shape_;
    const Device* device_;
  };
};

/// The parts in one string.
std::string join(std::initializer_list<Part> parts);

/// Throws E with the joined parts.
template <class E = Error>
[[noreturn, gnu::cold, gnu::noinline]] void fail(std::initializer_list<Part> parts) {
  throw E(join(parts));
}

/// Writes "dropin: warning: ..." to stderr, once per message in a process.
[[gnu::cold]] void warn_once(const std::string& message);

/// The entry of `known` nearest to `name` by edit distance; empty when there is none.
std::string nearest_name(std::string_view name, const std::string* known, std::size_t count);
/// The `most` nearest of them, the nearest first; in their order where they are equally near.
std::vector<std::string> nearest_names(std::string_view name, const std::string* known,
                                       std::size_t count, std::size_t most = 3);

}  // namespace dropin

/// Throws TYPE with the parts when COND is false: DROPIN_CHECK(d % h == 0, OptionError, "X:
/// embed_dim ", d, ...).
#define DROPIN_CHECK(COND, TYPE, ...)                \
  do {                                               \
    if (!(COND)) [[unlikely]]                        \
      ::dropin::fail<::dropin::TYPE>({__VA_ARGS__}); \
  } while (0)
