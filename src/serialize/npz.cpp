// NumPy's archives: a zip of arrays.
#include "dropin/ops/ops.h"
#include "serialize/containers.h"
#include "serialize/npy_format.h"
#include "serialize/zip.h"

namespace dropin::serialize_detail {

namespace {

class NpzContent final : public TensorContent {
 public:
  NpzContent(std::shared_ptr<const ZipArchive> zip, const ZipMember& member, NpyHeader header,
             Shape shape, std::string label)
      : zip_(std::move(zip)),
        member_(member),
        header_(std::move(header)),
        shape_(std::move(shape)),
        label_(std::move(label)) {}
  Tensor read() const override {
    return decode_stored(*readable().format, values(), shape_, label_);
  }
  void raw(std::uint64_t begin, std::uint64_t count, void* out) const override {
    readable();
    const std::string v = values();
    std::memcpy(out, v.data() + begin, count);
  }

 private:
  const NpyHeader& readable() const {
    if (!header_.format)
      fail<FileError>(
          {label_, ": dtype \"", header_.descr, "\" is not read, expected numbers or bool"});
    return header_;
  }
  std::string values() const {
    return npy_values(header_, zip_->read(member_, member_.size).substr(header_.begin));
  }
  std::shared_ptr<const ZipArchive> zip_;
  const ZipMember& member_;
  NpyHeader header_;
  Shape shape_;
  std::string label_;
};

}  // namespace

StateFile read_npz(const Source& file) {
  const auto zip = std::make_shared<const ZipArchive>(file);
  StateFile r;
  r.path = file->label();
  r.container = "npz";
  for (const ZipMember& m : zip->members()) {
    if (!m.name.ends_with(".npy"))
      fail<FileError>({r.path, ": member \"", m.name,
                       "\" is no array, expected an archive of torch.save or of .npy files"});
    const std::string label = join({r.path, ": member \"", m.name, "\""});
    const NpyHeader h = parse_npy_header(zip->begin_of(m, kMaxNpyHeader + 12), m.size, label);
    StoredTensor t;
    t.name = m.name.substr(0, m.name.size() - 4);
    t.shape = h.shape;
    t.format = h.format ? h.format->name : h.descr;
    t.dtype = h.format ? h.format->dtype : kFloat32;
    if (h.format && h.format->parts > 1) {
      if (h.shape.size() >= abi::kMaxDims)
        fail<FileError>({label, ": a complex array of 8 dimensions"});
      t.shape.push_back(h.format->parts);
    }
    t.bytes = m.size - h.begin;
    t.content = std::make_shared<NpzContent>(zip, m, h, t.shape, label);
    r.tensors.push_back(std::move(t));
  }
  return r;
}

}  // namespace dropin::serialize_detail
