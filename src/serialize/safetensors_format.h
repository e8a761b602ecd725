// What the reader of one file, the reader of shards and the writer of safetensors share.
#pragma once
#include <string>

#include "dropin/serialize/safetensors.h"
#include "serialize/byte_source.h"

namespace dropin::serialize_detail {

/// The greatest header, and the greatest index of shards.
constexpr std::uint64_t kMaxJsonBytes = 100'000'000;
/// The format's name of a dtype.
struct TypeName {
  DType type;
  const char* name;
};
constexpr TypeName kSafetensorsTypes[] = {
    {DType::Float32, "F32"}, {DType::Float64, "F64"}, {DType::BFloat16, "BF16"},
    {DType::Float16, "F16"}, {DType::Int8, "I8"},     {DType::UInt8, "U8"},
    {DType::Int32, "I32"},   {DType::Int64, "I64"},   {DType::Boolean, "BOOL"}};

/// A value as an error quotes it.
inline std::string quote(const Json& j) {
  std::string s = j.dump();
  if (s.size() > 100) s = s.substr(0, 100) + "...";
  return s;
}

/// One file, its header checked whole before any tensor is read.
SafetensorsFile read_safetensors(ByteSource& in);

}  // namespace dropin::serialize_detail
