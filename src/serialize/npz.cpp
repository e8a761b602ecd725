// NumPy's arrays: a zip of them, or one in a file.
#include <functional>

#include "dropin/ops/ops.h"
#include "serialize/containers.h"
#include "serialize/npy_format.h"
#include "serialize/zip.h"

namespace dropin::serialize_detail {

namespace {

constexpr std::string_view kNpyEnding = ".npy";
constexpr std::uint64_t kUsualNpyHeader = 4096;

/// An array, wherever it lies.
class NpyContent final : public TensorContent {
 public:
  using Whole = std::function<std::string()>;  ///< gives all its bytes, header included
  NpyContent(Whole whole, NpyHeader header, Shape shape, std::string label)
      : whole_(std::move(whole)),
        header_(std::move(header)),
        shape_(std::move(shape)),
        label_(std::move(label)) {}
  Tensor read() const override {
    const StoredFormat& format = *readable().format;  // before the values are asked for
    return decode_stored(format, values(), shape_, label_);
  }
  void raw(std::uint64_t begin, std::uint64_t count, void* out) const override {
    readable();
    const std::string v = values();
    if (begin > v.size() || count > v.size() - begin)
      fail<FileError>({label_, ": bytes ", begin, " to ", begin + count, " of ", v.size()});
    std::memcpy(out, v.data() + begin, count);
  }

 private:
  const NpyHeader& readable() const {
    if (header_.format) return header_;
    fail<FileError>(
        {label_, ": dtype \"", header_.descr, "\" is ",
         header_.descr.ends_with('O') ? "pickled objects, which are never read" : "not read",
         ", expected numbers or bool"});
  }
  std::string values() const { return npy_values(header_, whole_().substr(header_.begin)); }
  Whole whole_;
  NpyHeader header_;
  Shape shape_;
  std::string label_;
};

/// The beginning of an array with all of its header.
std::string npy_beginning(std::uint64_t bytes,
                          const std::function<std::string(std::uint64_t)>& begin_of) {
  std::string begin = begin_of(std::min(bytes, kUsualNpyHeader));
  if (begin.size() < kUsualNpyHeader) return begin;
  const auto* p = reinterpret_cast<const unsigned char*>(begin.data());
  const bool fits = p[6] == 1 && 10u + (p[8] | p[9] << 8) <= kUsualNpyHeader;
  return fits ? begin : begin_of(std::min(bytes, kMaxNpyHeader + 12));
}

StoredTensor npy_tensor(std::string name, std::string_view begin, std::uint64_t bytes,
                        NpyContent::Whole whole, const std::string& label) {
  const NpyHeader h = parse_npy_header(begin, bytes, label);
  if (h.format) check_npy_size(h, bytes, label);
  StoredTensor t;
  t.name = std::move(name);
  t.shape = h.shape;
  t.format = h.format ? h.format->name : h.descr;
  t.dtype = h.format ? h.format->dtype : kFloat32;
  if (h.format && h.format->parts > 1) {
    if (h.shape.size() >= abi::kMaxDims)
      fail<FileError>({label, ": a complex array of 8 dimensions"});
    t.shape.push_back(h.format->parts);
  }
  t.bytes = bytes - h.begin;
  t.content = std::make_shared<NpyContent>(std::move(whole), h, t.shape, label);
  return t;
}

}  // namespace

StateFile read_npz(const Source& file) {
  const auto zip = std::make_shared<const ZipArchive>(file);
  StateFile r;
  r.path = file->label();
  r.container = "npz";
  for (const ZipMember& m : zip->members()) {
    if (!m.name.ends_with(kNpyEnding))
      fail<FileError>({r.path, ": member \"", m.name,
                       "\" is no array, expected an archive of torch.save or of .npy files"});
    r.tensors.push_back(npy_tensor(
        m.name.substr(0, m.name.size() - kNpyEnding.size()),
        npy_beginning(m.size, [&](std::uint64_t n) { return zip->begin_of(m, n); }), m.size,
        [zip, &m] { return zip->read(m, m.size); }, join({r.path, ": member \"", m.name, "\""})));
  }
  return r;
}

StateFile read_npy_state(const Source& file) {
  StateFile r;
  r.path = file->label();
  r.container = "npy";
  const auto begin_of = [file](std::uint64_t n) {
    std::string s(n, '\0');
    file->read(0, s.data(), n);
    return s;
  };
  r.tensors.push_back(npy_tensor(
      "arr_0", npy_beginning(file->size(), begin_of), file->size(),
      [file, begin_of] { return begin_of(file->size()); }, r.path));
  return r;
}

}  // namespace dropin::serialize_detail
