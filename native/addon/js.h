// Helpers between JavaScript values and C++: checked reads, and errors that carry a PagodaError code.
#pragma once

#include <napi.h>

#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "failure.h"

namespace pagoda {

/// The `code` of lib/errors.ts for a status.
inline const char* errorCode(PagodaStatus status) {
  switch (status) {
    case PAGODA_INVALID:
      return "ERR_ARGUMENT";
    case PAGODA_OUT_OF_MEMORY:
      return "ERR_MEMORY";
    case PAGODA_UNAVAILABLE:
      return "ERR_BACKEND_UNAVAILABLE";
    case PAGODA_UNSUPPORTED:
      return "ERR_BACKEND_UNSUPPORTED";
    case PAGODA_IO:
      return "ERR_MODEL_CORRUPT";
    default:
      return "ERR_BACKEND_FAILED";
  }
}

inline Napi::Error codedError(Napi::Env env, const char* code, const std::string& message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, code));
  return error;
}

/// Runs `function` and rethrows a Failure as a JavaScript error with a code.
template <typename Function>
auto guarded(Napi::Env env, Function&& function) -> decltype(function()) {
  try {
    return function();
  } catch (const Failure& failure) {
    throw codedError(env, errorCode(failure.status()), failure.what());
  } catch (const std::bad_alloc&) {
    throw codedError(env, "ERR_MEMORY", "Out of memory");
  }
}

inline Napi::Value property(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  require(!value.IsUndefined(), std::string("Missing property ") + name);
  return value;
}

inline double readNumber(const Napi::Value& value, const char* name) {
  require(value.IsNumber(), std::string("Expected a number for ") + name);
  return value.As<Napi::Number>().DoubleValue();
}

/// An integer in [low, high]; both must be exact in a double.
inline int64_t readInteger(const Napi::Value& value, const char* name, int64_t low, int64_t high) {
  const double number = readNumber(value, name);
  const bool inside = number >= static_cast<double>(low) && number <= static_cast<double>(high);
  require(inside && number == static_cast<double>(static_cast<int64_t>(number)),
          std::string("Expected an integer in range for ") + name);
  return static_cast<int64_t>(number);
}

inline int32_t readInt32(const Napi::Object& object, const char* name, int32_t low = 0) {
  return static_cast<int32_t>(readInteger(property(object, name), name, low, std::numeric_limits<int32_t>::max()));
}

inline uint64_t readBytes(const Napi::Object& object, const char* name) {
  return static_cast<uint64_t>(readInteger(property(object, name), name, 0, int64_t{1} << 53));
}

inline std::string readString(const Napi::Value& value, const char* name) {
  require(value.IsString(), std::string("Expected a string for ") + name);
  return value.As<Napi::String>().Utf8Value();
}

inline Napi::Object readObject(const Napi::Value& value, const char* name) {
  require(value.IsObject(), std::string("Expected an object for ") + name);
  return value.As<Napi::Object>();
}

inline Napi::Array readArray(const Napi::Value& value, const char* name) {
  require(value.IsArray(), std::string("Expected an array for ") + name);
  return value.As<Napi::Array>();
}

template <typename T>
constexpr napi_typedarray_type typedArrayType();
template <>
constexpr napi_typedarray_type typedArrayType<int32_t>() {
  return napi_int32_array;
}
template <>
constexpr napi_typedarray_type typedArrayType<uint32_t>() {
  return napi_uint32_array;
}
template <>
constexpr napi_typedarray_type typedArrayType<uint8_t>() {
  return napi_uint8_array;
}
template <>
constexpr napi_typedarray_type typedArrayType<float>() {
  return napi_float32_array;
}

/// A view of a typed array of elements T, valid until control returns to JavaScript.
template <typename T>
Napi::TypedArrayOf<T> readTypedArray(const Napi::Value& value, const char* name) {
  require(value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == typedArrayType<T>(),
          std::string("Expected a typed array of the right type for ") + name);
  return value.As<Napi::TypedArrayOf<T>>();
}

/// A copy of a typed array, for use on another thread.
template <typename T>
std::vector<T> copyTypedArray(const Napi::Value& value, const char* name) {
  const Napi::TypedArrayOf<T> array = readTypedArray<T>(value, name);
  std::vector<T> copy(array.ElementLength());
  if (!copy.empty()) std::memcpy(copy.data(), array.Data(), copy.size() * sizeof(T));
  return copy;
}

}  // namespace pagoda
