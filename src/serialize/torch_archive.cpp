// What torch.save writes: archives, and the form of before PyTorch 1.6.
#include <algorithm>
#include <cmath>
#include <functional>
#include <unordered_map>
#include <unordered_set>

#include "dropin/ops/ops.h"
#include "serialize/containers.h"
#include "serialize/pickle.h"
#include "serialize/zip.h"

namespace dropin::serialize_detail {

namespace {

constexpr std::uint64_t kMaxPickleBytes = 1u << 30;
/// Values and bytes of text for each byte of a pickle, or it says the same ones again and again.
constexpr std::size_t kMostPerPickleByte = 16, kFreeOfPickle = 1 << 16;
constexpr int kMaxPickleDepth = 60;

/// Bytes of a file that are one storage.
struct StorageBytes {
  Source file;
  std::uint64_t begin = 0, bytes = 0;
  bool big_endian = false;
};

/// Whether a view's elements follow each other in the order of a contiguous tensor.
bool is_row_major(const PickledTensor& t) {
  std::int64_t expected = 1;
  for (std::size_t d = t.sizes.size(); d-- > 0;) {
    if (t.sizes[d] != 1 && t.strides[d] != expected) return false;
    expected *= t.sizes[d];
  }
  return true;
}

/// A view of a storage: elements by offset and strides.
class ViewContent final : public TensorContent {
 public:
  ViewContent(StorageBytes storage, PickledTensor view, Shape shape, std::string label)
      : storage_(std::move(storage)),
        view_(std::move(view)),
        shape_(std::move(shape)),
        label_(std::move(label)) {}
  Tensor read() const override { return decode_stored(*view_.format, gathered(), shape_, label_); }
  void raw(std::uint64_t begin, std::uint64_t count, void* out) const override {
    const std::string all = gathered();
    if (begin > all.size() || count > all.size() - begin)
      fail<FileError>({label_, ": bytes ", begin, " to ", begin + count, " of ", all.size()});
    std::memcpy(out, all.data() + begin, count);
  }

 private:
  /// The elements in row-major order.
  std::string gathered() const {
    const int bytes = std::max(1, view_.format->bits / 8);
    std::int64_t count = 1, span = 0;
    for (std::size_t i = 0; i < view_.sizes.size(); ++i) {
      count *= view_.sizes[i];
      span += (view_.sizes[i] - 1) * view_.strides[i];
    }
    if (count == 0) return "";
    const auto width = static_cast<std::uint64_t>(bytes);
    std::string from((static_cast<std::uint64_t>(span) + 1) * width, '\0');
    storage_.file->read(storage_.begin + view_.offset * width, from.data(), from.size());
    if (storage_.big_endian) {
      const int part = bytes / view_.format->parts;
      for (std::size_t i = 0; i + static_cast<std::size_t>(part) <= from.size();
           i += static_cast<std::size_t>(part))
        std::reverse(from.begin() + static_cast<std::ptrdiff_t>(i),
                     from.begin() + static_cast<std::ptrdiff_t>(i) + part);
    }
    if (is_row_major(view_)) return from;
    std::string out(static_cast<std::uint64_t>(count) * width, '\0');
    std::vector<std::int64_t> at(view_.sizes.size(), 0);
    for (std::int64_t i = 0, source = 0; i < count; ++i) {
      std::memcpy(out.data() + i * bytes, from.data() + source * bytes, width);
      for (std::size_t d = at.size(); d-- > 0;) {
        source += view_.strides[d];
        if (++at[d] < view_.sizes[d]) break;
        source -= view_.sizes[d] * view_.strides[d];
        at[d] = 0;
      }
    }
    return out;
  }
  StorageBytes storage_;
  PickledTensor view_;
  Shape shape_;
  std::string label_;
};

/// Where a value stands: the key of each container above it, joined by '.' when that is asked for.
struct PicklePlace {
  const PicklePlace* above = nullptr;
  std::string_view key;
  std::size_t index = 0;  ///< where there is no key

  std::string name() const {
    std::vector<const PicklePlace*> places;
    for (const PicklePlace* p = this; p->above; p = p->above) places.push_back(p);
    std::string r;
    for (std::size_t i = places.size(); i-- > 0;) {
      if (i + 1 < places.size()) r += '.';
      r += places[i]->key.data() ? std::string(places[i]->key) : std::to_string(places[i]->index);
    }
    return r;
  }
  int depth() const { return above ? above->depth() + 1 : 0; }
};

/// Turns a pickle's values into tensors by name and the rest as JSON.
class PickleTree {
 public:
  using Locate = std::function<StorageBytes(const PickledStorage&)>;
  PickleTree(const Pickled& p, const Locate& locate, StateFile& to)
      : p_(p), locate_(locate), to_(to), most_(kFreeOfPickle + kMostPerPickleByte * p.bytes) {}
  /// The metadata are an object whatever was saved: a list's entries under "0", "1", ..., a tensor
  /// under its name, anything else under "value".
  void run() {
    Json j = walk(p_.root, {});
    if (!j.is_object()) {
      std::vector<Json::Item> entries;
      if (j.is_array())
        for (std::size_t i = 0; i < j.size(); ++i) entries.emplace_back(std::to_string(i), j[i]);
      else
        entries.emplace_back(to_.tensors.empty() ? "value" : "tensor", std::move(j));
      j = Json::object(std::move(entries));
    }
    to_.metadata = std::move(j);
  }

 private:
  [[noreturn]] void bad(const std::string& name, std::initializer_list<Part> why) const {
    fail<FileError>({to_.path, ": \"", name, "\": ", join(why)});
  }
  std::string key_text(const PickleNode& k, const PicklePlace& where) const {
    switch (k.kind) {
      case PickleNode::Text:
      case PickleNode::BigInt:
        return k.text;
      case PickleNode::Int:
        return std::to_string(k.integer);
      case PickleNode::Bool:
        return k.integer ? "True" : "False";
      case PickleNode::None:
        return "None";
      case PickleNode::Float: {
        const Json j = real(k.real);
        return j.is_string() ? j.as_string() : j.dump();
      }
      default:
        bad(where.name(), {"a dict's key is neither a text nor a number"});
    }
  }
  /// Values that several places refer to are given to each; a small file must not become a large
  /// tree by that.
  void spend(std::size_t values, std::size_t texts, const PicklePlace& at) {
    values_ += values;
    texts_ += texts;
    if (values_ > most_ || texts_ > most_)
      bad(at.name(), {"the same ", values_ > most_ ? "values" : "texts",
                      " are said again and again: more than ", static_cast<int64_t>(most_)});
  }

  Json walk(std::uint32_t id, const PicklePlace& at) {
    if (at.depth() > kMaxPickleDepth) bad(at.name(), {"is nested more than 60 deep, or in itself"});
    const PickleNode& n = p_.nodes[id];
    spend(1, n.text.size(), at);
    switch (n.kind) {
      case PickleNode::None:
        return Json();
      case PickleNode::Bool:
        return Json(n.integer != 0);
      case PickleNode::Int:
        return Json(static_cast<long>(n.integer));
      case PickleNode::BigInt:
        return Json::big_integer(n.text);
      case PickleNode::Float:
        return real(n.real);
      case PickleNode::Text:
      case PickleNode::DType:
      case PickleNode::Device:
      case PickleNode::Global:
        return Json(n.text);
      case PickleNode::Bytes: {
        spend(n.text.size(), 0, at);
        Json r = Json::array();
        for (const char c : n.text)
          r.push_back(Json(static_cast<int>(static_cast<unsigned char>(c))));
        return r;
      }
      case PickleNode::List:
      case PickleNode::Tuple:
      case PickleNode::Complex: {
        Json r = Json::array();
        for (std::size_t i = 0; i < n.items.size(); ++i)
          r.push_back(walk(n.items[i], {&at, {}, i}));
        return r;
      }
      case PickleNode::Dict:
        return dict(n, at);
      case PickleNode::Tensor: {
        const std::string name = at.above ? at.name() : "tensor";
        spend(0, 2 * name.size(), at);
        enter(p_.tensors[static_cast<std::size_t>(n.integer)], name);
        return Json("<tensor " + name + ">");
      }
      case PickleNode::Storage:
        break;
    }
    bad(at.name(), {"is a storage without sizes, expected a tensor"});
  }
  static Json real(double v) {
    if (std::isnan(v)) return Json("nan");
    if (std::isinf(v)) return Json(v > 0 ? "inf" : "-inf");
    return Json(v);
  }
  Json dict(const PickleNode& n, const PicklePlace& at) {
    std::vector<Json::Item> entries;
    std::vector<PickleNode::Kind> kinds;
    std::unordered_map<std::string, std::size_t> seen;
    for (std::size_t i = 0; i < n.items.size(); i += 2) {
      const PickleNode& k = p_.nodes[n.items[i]];
      const std::string key = key_text(k, at);
      spend(1, key.size(), at);
      const auto [entry, is_new] = seen.try_emplace(key, entries.size());
      if (!is_new && kinds[entry->second] != k.kind)
        bad(at.name(), {"has the key ", key, " as a number and as a text"});
      Json value = walk(n.items[i + 1], {&at, entry->first});
      if (is_new) {
        entries.emplace_back(key, std::move(value));
        kinds.push_back(k.kind);
      } else {
        entries[entry->second].second = std::move(value);  // as a dict that is set twice
      }
    }
    return Json::object(std::move(entries));
  }
  /// The sizes in elements as a Tensor counts them; FileError when they cannot be counted.
  Shape shape_of(const PickledTensor& t, const std::string& name) const {
    Shape shape;
    std::int64_t extent = 1;  // zeros apart: of [0, 2^40, 2^40] the strides cannot be counted
    for (const std::int64_t n : t.sizes) {
      if (n > 0 && (__builtin_mul_overflow(extent, n, &extent) || extent >> 56))
        bad(name, {"has more elements than can be counted"});
      shape.push_back(n);
    }
    if (t.format->bits == 4) {  // two codes a byte, counted as one by PyTorch
      if (shape.empty()) bad(name, {"is a scalar of two 4-bit numbers"});
      shape[shape.size() - 1] *= 2;
    }
    if (t.format->parts > 1) {
      if (shape.size() >= abi::kMaxDims) bad(name, {"a complex tensor of 8 dimensions"});
      shape.push_back(t.format->parts);
    }
    return shape;
  }
  void enter(const PickledTensor& view, const std::string& name) {
    if (!names_.insert(name).second) bad(name, {"two tensors have this name"});
    const PickledStorage& s = p_.storages[view.storage];
    const StorageBytes bytes = locate_(s);
    const auto width = static_cast<std::uint64_t>(std::max(1, view.format->bits / 8));
    PickledTensor t = view;
    t.offset += s.offset;
    const Shape shape = shape_of(t, name);
    std::uint64_t count = 1, span = 0, product;
    for (std::size_t d = 0; d < t.sizes.size(); ++d) {
      const auto n = static_cast<std::uint64_t>(t.sizes[d]);
      count *= n;
      if (n > 0 &&
          (__builtin_mul_overflow(n - 1, static_cast<std::uint64_t>(t.strides[d]), &product) ||
           __builtin_add_overflow(span, product, &span) || span >> 58))
        bad(name, {"its strides reach further than can be counted"});
    }
    if (count > 0 && (t.offset > bytes.bytes / width || span >= bytes.bytes / width - t.offset))
      bad(name, {"needs ", static_cast<double>(t.offset) + static_cast<double>(span) + 1,
                 " elements of storage ", s.key, ", which has ", bytes.bytes / width});
    // A view may repeat elements without end: its values must be worth the file.
    if (count / 4096 > bytes.bytes + 1024)
      bad(name, {shape, " of a storage of ", bytes.bytes, " bytes"});
    StoredTensor out;
    out.name = name;
    out.format = view.format->name;
    out.shape = shape;
    out.dtype = view.format->dtype;
    out.bytes = count * width;
    const std::string label = join({to_.path, ": tensor \"", name, "\""});
    if (count == 0 || (is_row_major(t) && !bytes.big_endian))
      out.content =
          content_of(bytes.file, *view.format, shape, bytes.begin + t.offset * width, label);
    else
      out.content = std::make_shared<ViewContent>(bytes, std::move(t), shape, label);
    to_.tensors.push_back(std::move(out));
  }

  const Pickled& p_;
  const Locate& locate_;
  StateFile& to_;
  std::size_t most_, values_ = 0, texts_ = 0;
  std::unordered_set<std::string> names_;
};

/// The folder that all members lie in, "" or with its slash.
std::string archive_stem(const ZipArchive& zip) {
  for (const ZipMember& m : zip.members())
    if (m.name == "data.pkl" || m.name.ends_with("/data.pkl"))
      return m.name.substr(0, m.name.size() - std::string_view("data.pkl").size());
  fail<FileError>({zip.file()->label(), ": a zip archive without data.pkl, expected torch.save's"});
}

StateFile read_torch_zip(const ZipArchive& zip) {
  StateFile r;
  r.path = zip.file()->label();
  r.container = "pt";
  const std::string stem = archive_stem(zip);
  if (zip.find(stem + "constants.pkl"))
    fail<FileError>({r.path,
                     ": is a TorchScript program, expected weights; save them alone: "
                     "torch.save(torch.jit.load(PATH).state_dict(), OTHER)"});
  bool big_endian = false;
  if (const ZipMember* order = zip.find(stem + "byteorder")) {
    const std::string said = zip.read(*order, 64);
    if (said != "little" && said != "big")
      fail<FileError>({r.path, ": byteorder is \"", said, "\", expected little or big"});
    big_endian = said == "big";
  }
  const std::string text = zip.read(*zip.find(stem + "data.pkl"), kMaxPickleBytes);
  const Pickled p = read_pickle(r.path, text);
  const PickleTree::Locate locate = [&](const PickledStorage& s) {
    const ZipMember* m = zip.find(stem + "data/" + s.key);
    if (!m) fail<FileError>({r.path, ": storage ", stem, "data/", s.key, " is missing"});
    if (m->deflated)
      fail<FileError>({r.path, ": storage ", m->name, " is packed, expected stored"});
    const auto width = static_cast<std::uint64_t>(s.format ? s.format->bits / 8 : 1);
    if (s.count > m->size / width)
      fail<FileError>({r.path, ": storage ", m->name, " has ", m->size, " bytes, ", s.count,
                       " elements need more"});
    return StorageBytes{zip.file(), zip.content_of(*m), s.count * width, big_endian};
  };
  PickleTree(p, locate, r).run();
  return r;
}

}  // namespace

StateFile read_torch_archive(const Source& file) { return read_torch_zip(ZipArchive(file)); }

StateFile read_zip_state(const Source& file) {
  const ZipArchive zip(file);
  for (const ZipMember& m : zip.members())
    if (m.name == "data.pkl" || m.name.ends_with("/data.pkl")) return read_torch_zip(zip);
  return read_npz(file);
}

namespace {

/// The pickles of the older form, one after the other; how long each is only its end tells.
class LegacyReader {
 public:
  explicit LegacyReader(const Source& file) : file_(file) {}
  Pickled next() {
    for (std::uint64_t most = 1 << 16;; most *= 8) {
      const std::uint64_t left = std::min(file_->size() - at_, kMaxPickleBytes);
      std::string text(std::min(left, most), '\0');
      file_->read(at_, text.data(), text.size());
      try {
        Pickled p = read_pickle(file_->label(), text);
        at_ += p.bytes;
        return p;
      } catch (const FileError&) {
        if (text.size() == left) throw;
      }
    }
  }
  std::uint64_t at() const { return at_; }

 private:
  const Source& file_;
  std::uint64_t at_ = 0;
};

/// The first pickle: a number that torch.save begins with.
void check_magic(const std::string& path, LegacyReader& in) {
  constexpr const char* kOther = ": is a pickle that torch.save did not write";
  Pickled first;
  try {
    first = in.next();
  } catch (const FileError& e) {
    fail<FileError>({path, kOther, " (", e.what(), ")"});
  }
  const PickleNode& n = first.nodes[first.root];
  if (n.kind != PickleNode::BigInt || n.text != "119547037146038801333356")
    fail<FileError>({path, kOther, ": its first value is not the number that marks those"});
}

}  // namespace

StateFile read_legacy_torch(const Source& file) {
  StateFile r;
  r.path = file->label();
  r.container = "pt";
  LegacyReader in(file);
  check_magic(r.path, in);
  in.next();  // the protocol
  in.next();  // the machine it was written on
  const Pickled p = in.next(), keys = in.next();
  std::unordered_map<std::string, const PickledStorage*> by_key;
  for (const PickledStorage& s : p.storages) by_key.emplace(s.key, &s);
  std::unordered_map<std::string, StorageBytes> places;
  std::uint64_t at = in.at();
  for (const std::uint32_t id : keys.nodes[keys.root].items) {
    const std::string& key = keys.nodes[id].text;
    const auto storage = by_key.find(key);
    if (storage == by_key.end())
      fail<FileError>({r.path, ": storage \"", key, "\" is listed and not used"});
    std::int64_t count = 0;
    if (file->size() - at < 8) fail<FileError>({r.path, ": ends before storage ", key});
    file->read(at, &count, 8);
    at += 8;
    const StoredFormat* f = storage->second->format;
    const auto width = static_cast<std::uint64_t>(f ? f->bits / 8 : 1);  // untyped: bytes
    if (count < 0 || static_cast<std::uint64_t>(count) > (file->size() - at) / width)
      fail<FileError>({r.path, ": storage ", key, " claims ", count, " elements, ",
                       file->size() - at, " bytes are left"});
    places[key] = {file, at, static_cast<std::uint64_t>(count) * width, false};
    at += static_cast<std::uint64_t>(count) * width;
  }
  const PickleTree::Locate locate = [&](const PickledStorage& s) {
    const auto place = places.find(s.key);
    if (place == places.end()) fail<FileError>({r.path, ": storage ", s.key, " is missing"});
    return place->second;
  };
  PickleTree(p, locate, r).run();
  return r;
}

}  // namespace dropin::serialize_detail
