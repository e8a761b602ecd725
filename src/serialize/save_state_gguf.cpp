// Writes GGUF version 3.
#include "serialize/save_state_gguf.h"

#include <algorithm>
#include <cmath>

#include "dropin/ops/ops.h"
#include "dropin/serialize/atomic_file.h"
#include "serialize/gguf_blocks.h"
#include "serialize/gguf_numbers.h"

namespace dropin::serialize_detail {

namespace {

constexpr std::size_t kMaxGgufName = 63;  ///< ggml keeps 64 bytes with the zero
constexpr std::uint64_t kGgufCopyBytes = 1 << 24;
constexpr int kMaxGgufRank = 4;

template <class T>
void put_number(std::string& out, T v) {
  out.append(reinterpret_cast<const char*>(&v), sizeof v);
}
void put_text(std::string& out, std::string_view s) {
  put_number<std::uint64_t>(out, s.size());
  out += s;
}

bool is_exact_float(double v) { return static_cast<double>(static_cast<float>(v)) == v; }

/// GGUF's type of a value: the least of u32, i32, i64, u64 for an integer, f32 where it is exact.
std::uint32_t gguf_type_of(const Json& v) {
  if (v.is_bool()) return 7;
  if (v.is_int()) {
    const int64_t n = v.as_int();
    return n >= 0 && n <= 0xffffffffLL ? 4 : n >= -0x80000000LL && n < 0 ? 5 : 11;
  }
  if (v.is_double()) {
    const std::string digits = v.dump();
    const bool integer = digits.find_first_not_of("0123456789") == digits.npos;
    return integer && digits.size() <= 20 ? 10 : is_exact_float(v.as_double()) ? 6 : 12;
  }
  return v.is_array() ? 9 : 8;
}

/// One type for the entries of an array; strings where they have no type in common.
std::uint32_t gguf_array_type(const Json& array) {
  if (array.size() == 0) return 5;
  std::uint32_t type = gguf_type_of(array[0]);
  for (std::size_t i = 1; i < array.size(); ++i) {
    const std::uint32_t next = gguf_type_of(array[i]);
    if (next == type) continue;
    const auto integer = [](std::uint32_t t) { return t == 4 || t == 5 || t == 11; };
    const auto number = [&](std::uint32_t t) { return integer(t) || t == 6 || t == 12; };
    type = integer(type) && integer(next) ? 11 : number(type) && number(next) ? 12 : 8;
    if (type == 8) break;
  }
  return type == 9 ? 8 : type;  // arrays of arrays are written as texts
}

void put_value(std::string& out, const Json& v, std::uint32_t type) {
  switch (type) {
    case 4:
      return put_number(out, static_cast<std::uint32_t>(v.as_int()));
    case 5:
      return put_number(out, static_cast<std::int32_t>(v.as_int()));
    case 6:
      return put_number(out, static_cast<float>(v.as_double()));
    case 7:
      return put_number(out, static_cast<std::uint8_t>(v.as_bool()));
    case 10:
      return put_number(out, static_cast<std::uint64_t>(std::stoull(v.dump())));
    case 11:
      return put_number(out, static_cast<std::int64_t>(v.as_int()));
    case 12:
      return put_number(out, v.as_double());
    default:
      return put_text(out, v.is_string() ? v.as_string() : v.dump());
  }
}

void put_metadata(std::string& out, const std::string& path, const std::string& key,
                  const Json& v) {
  if (key.empty() || key.size() > 65535 || !is_utf8(key))
    fail<OptionError>({path, ": the metadata key \"", key, "\" is empty, too long or not UTF-8"});
  put_text(out, key);
  const std::uint32_t type = gguf_type_of(v);
  put_number(out, type);
  if (type != 9) return put_value(out, v, type);
  const std::uint32_t item = gguf_array_type(v);
  put_number(out, item);
  put_number<std::uint64_t>(out, v.size());
  for (std::size_t i = 0; i < v.size(); ++i) put_value(out, v[i], item);
}

/// What goes into the file: that of `options`, and what readers ask for.
Json gguf_metadata(const SaveStateOptions& options) {
  Json r = Json::object();
  if (!options.metadata.find("general.architecture")) r.set("general.architecture", "dropin");
  for (const auto& [k, v] : options.metadata.items())
    if (k != "general.alignment" && k.compare(0, 6, "split.") != 0 && !v.is_null()) r.set(k, v);
  if (options.alignment != 32) r.set("general.alignment", Json(options.alignment));
  return r;
}

std::uint64_t gguf_bytes(const StoredTensor& t, const GgufType& type) {
  std::uint64_t n = 1;
  for (const int64_t d : t.shape) n *= static_cast<std::uint64_t>(d);
  return n / static_cast<std::uint64_t>(type.block) * static_cast<std::uint64_t>(type.bytes);
}

/// A tensor's bytes in a type.
void write_gguf_tensor(const StoredTensor& t, const GgufType& type, AtomicFile& out) {
  if (t.format == type.name) {
    std::string piece;
    for (std::uint64_t at = 0; at < t.bytes; at += piece.size()) {
      piece.resize(std::min(kGgufCopyBytes, t.bytes - at));
      t.content->raw(at, piece.size(), piece.data());
      out.write(piece);
    }
  } else if (std::string_view(type.name) == "I16") {
    const Tensor v = t.read(kInt32);
    std::vector<std::int16_t> narrow(static_cast<std::size_t>(v.numel()));
    for (std::size_t i = 0; i < narrow.size(); ++i)
      narrow[i] = static_cast<std::int16_t>(v.data<std::int32_t>()[i]);
    out.write(narrow.data(), 2 * narrow.size());
  } else if (type.plain) {
    const Tensor v = t.read(type.dtype);
    out.write(v.data_ptr(), gguf_bytes(t, type));
  } else {
    const Tensor v = t.read(kFloat32);
    std::string blocks(gguf_bytes(t, type), '\0');
    quantize_gguf(type, v.data<float>(), v.numel() / type.block,
                  reinterpret_cast<unsigned char*>(blocks.data()));
    out.write(blocks);
  }
}

const GgufType& own_gguf_type(const StoredTensor& t) {
  if (const GgufType* same = find_gguf_type(t.format)) return *same;
  if (t.format.compare(0, 5, "type ") == 0)
    fail<OptionError>({"tensor \"", t.name, "\" has ", t.format, ", which is not known"});
  if (t.dtype == kUInt8) return *find_gguf_type("I16");
  if (t.dtype == DType::Boolean) return *find_gguf_type("I8");
  for (const char* name : {"F32", "F16", "BF16", "F64", "I8", "I32", "I64"})
    if (find_gguf_type(name)->dtype == t.dtype) return *find_gguf_type(name);
  return *find_gguf_type("F32");
}

const GgufType& gguf_type_for(const StoredTensor& t, const std::string& path,
                              const SaveStateOptions& options) {
  if (options.format.empty() || !is_floating(t.dtype)) return own_gguf_type(t);
  const GgufType* wanted = find_gguf_type(options.format);
  if (!wanted || !(wanted->plain ? is_floating(wanted->dtype) : wanted->quantizes))
    fail<OptionError>({path, ": format is \"", options.format,
                       "\", expected one of F64, F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, "
                       "TQ1_0, TQ2_0, MXFP4 for GGUF"});
  if (wanted->plain || t.format == wanted->name) return *wanted;
  const bool blocks =
      t.shape.size() >= 2 && t.shape[static_cast<int>(t.shape.size()) - 1] % wanted->block == 0;
  return blocks ? *wanted : *find_gguf_type("F32");
}

}  // namespace

std::string saved_gguf_format(const StoredTensor& t, const std::string& path,
                              const SaveStateOptions& options) {
  return gguf_type_for(t, path, options).name;
}

std::string save_as_gguf(const std::string& path, const std::vector<StoredTensor>& tensors,
                         const SaveStateOptions& options) {
  const int64_t a = options.alignment;
  if (a < 1 || (a & (a - 1)) != 0 || a > 1 << 20)
    fail<OptionError>({path, ": alignment is ", a, ", expected a power of two up to 2^20"});
  const auto padded = [a](std::uint64_t n) {
    return (n + static_cast<std::uint64_t>(a) - 1) / static_cast<std::uint64_t>(a) *
           static_cast<std::uint64_t>(a);
  };
  const Json metadata = gguf_metadata(options);
  std::string header = "GGUF";
  put_number<std::uint32_t>(header, 3);
  put_number<std::uint64_t>(header, tensors.size());
  put_number<std::uint64_t>(header, metadata.size());
  for (const auto& [k, v] : metadata.items()) put_metadata(header, path, k, v);
  std::vector<const GgufType*> types;
  std::vector<std::string> names;
  std::uint64_t offset = 0;
  for (const StoredTensor& t : tensors) {
    if (t.name.size() > kMaxGgufName || !is_utf8(t.name))
      fail<OptionError>({path, ": the tensor name \"", t.name, "\" has ",
                         static_cast<int64_t>(t.name.size()),
                         " bytes, expected UTF-8 of at most 63 bytes, which is what GGUF's readers "
                         "keep"});
    if (t.shape.size() > kMaxGgufRank)
      fail<OptionError>(
          {path, ": tensor \"", t.name, "\" is ", t.shape, "; GGUF has at most 4 dimensions"});
    names.push_back(t.name);
    types.push_back(&gguf_type_for(t, path, options));
    put_text(header, t.name);
    put_number(header, static_cast<std::uint32_t>(t.shape.size()));
    for (std::size_t i = t.shape.size(); i-- > 0;)
      put_number(header, static_cast<std::uint64_t>(t.shape[static_cast<int>(i)]));
    put_number(header, types.back()->id);
    put_number(header, offset);
    offset += padded(gguf_bytes(t, *types.back()));
  }
  std::sort(names.begin(), names.end());
  if (const auto twice = std::adjacent_find(names.begin(), names.end()); twice != names.end())
    fail<OptionError>({path, ": the tensor name \"", *twice, "\" is given twice"});
  header.resize(padded(header.size()), '\0');
  AtomicFile out(path);
  out.write(header);
  std::uint64_t written = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    write_gguf_tensor(tensors[i], *types[i], out);
    const std::uint64_t n = gguf_bytes(tensors[i], *types[i]);
    out.write(std::string(padded(n) - n, '\0'));
    written += padded(n);
    if (options.progress) options.progress(i + 1, tensors.size(), written);
  }
  out.commit();
  return path;
}

}  // namespace dropin::serialize_detail
