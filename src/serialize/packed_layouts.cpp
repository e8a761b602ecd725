#include "serialize/packed_layouts.h"

#include <algorithm>
#include <filesystem>

#include "dropin/serialize/safetensors.h"
#include "serialize/byte_source.h"

namespace dropin::serialize_detail {

namespace {

constexpr std::uint64_t kMaxConfigBytes = 16'000'000;

class PackedContent final : public TensorContent {
 public:
  PackedContent(std::shared_ptr<const TensorContent> codes, std::function<Tensor()> read)
      : codes_(std::move(codes)), read_(std::move(read)) {}
  Tensor read() const override { return read_(); }
  void raw(std::uint64_t begin, std::uint64_t count, void* out) const override {
    codes_->raw(begin, count, out);
  }

 private:
  std::shared_ptr<const TensorContent> codes_;
  std::function<Tensor()> read_;
};

/// Output layers that share the embedding's weight, by the embedding's name.
constexpr std::pair<const char*, const char*> kTied[] = {
    {"model.embed_tokens.weight", "lm_head.weight"},
    {"transformer.wte.weight", "lm_head.weight"},
    {"model.decoder.embed_tokens.weight", "lm_head.weight"},
    {"gpt_neox.embed_in.weight", "embed_out.weight"},
    {"bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"},
    {"roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"}};

bool ties_embeddings(const ModelConfig& c) {
  const Json* said = c.find({"tie_word_embeddings"});
  if (said) return said->is_bool() && said->as_bool();
  return c.text({"model_type"}) == "gpt2";  // whose config leaves it out
}

}  // namespace

const Json* ModelConfig::find(std::initializer_list<std::string_view> keys) const {
  const Json* j = &json;
  for (const std::string_view k : keys)
    if (!j || !(j = j->find(k))) return nullptr;
  return j;
}

std::string ModelConfig::text(std::initializer_list<std::string_view> keys) const {
  const Json* j = find(keys);
  return j && j->is_string() ? j->as_string() : "";
}

ModelConfig read_model_config(const std::string& beside) {
  ModelConfig r;
  const std::size_t slash = beside.rfind('/');
  r.path = (slash == std::string::npos ? "" : beside.substr(0, slash + 1)) + "config.json";
  std::error_code none;
  if (!std::filesystem::is_regular_file(r.path, none)) return r;
  try {
    const ByteSource in(r.path);
    if (in.size() > kMaxConfigBytes)
      fail<FileError>({r.path, ": ", in.size(), " bytes, expected at most ", kMaxConfigBytes});
    std::string text(in.size(), '\0');
    in.read(0, text.data(), text.size());
    r.json = Json::parse(text);
  } catch (const Error& e) {
    r.error = e.what();
  }
  return r;
}

void find_aliases(StateFile& file, const ModelConfig& config) {
  if (file.container != "safetensors") return;
  std::unordered_map<std::string_view, int> names;
  for (const StoredTensor& t : file.tensors) names.emplace(t.name, 0);
  if (file.metadata.is_object())
    for (const auto& [name, kept] : file.metadata.items())
      if (kept.is_string() && !names.count(name) && names.count(kept.as_string()))
        file.aliases.emplace_back(name, kept.as_string());
  if (ties_embeddings(config))
    for (const auto& [embedding, output] : kTied)
      if (names.count(embedding) && !names.count(output))
        file.aliases.emplace_back(output, embedding);
}

TensorGroups::TensorGroups(StateFile& file) : file_(file), gone_(file.tensors.size()) {
  for (std::size_t i = 0; i < file.tensors.size(); ++i) where_.emplace(file.tensors[i].name, i);
}

const StoredTensor* TensorGroups::find(const std::string& name) const {
  const auto at = where_.find(name);
  return at == where_.end() || gone_[at->second] ? nullptr : &file_.tensors[at->second];
}

const StoredTensor& TensorGroups::need(const std::string& name, const std::string& of) const {
  if (const StoredTensor* t = find(name)) return *t;
  fail<FileError>({file_.path, ": tensor \"", of, "\" needs \"", name, "\", which is not there"});
}

std::vector<std::string> TensorGroups::ending(std::string_view suffix) const {
  std::vector<std::string> r;
  for (std::size_t i = 0; i < file_.tensors.size(); ++i)
    if (const std::string& n = file_.tensors[i].name; !gone_[i] && n.ends_with(suffix))
      r.push_back(n.substr(0, n.size() - suffix.size()));
  return r;
}

void TensorGroups::replace(const std::vector<std::string>& parts, StoredTensor packed) {
  std::size_t first = file_.tensors.size();
  for (const std::string& p : parts)
    if (const auto at = where_.find(p); at != where_.end()) {
      gone_[at->second] = true;
      first = std::min(first, at->second);
    }
  if (const StoredTensor* other = find(packed.name))
    bad_layout(file_, packed.name,
               {"is there as ", other->format, " and as the packed ", packed.format});
  for (const std::string& p : parts) where_.erase(p);
  where_[packed.name] = first;
  gone_[first] = false;
  file_.tensors[first] = std::move(packed);
}

void TensorGroups::finish() {
  std::vector<StoredTensor> left;
  left.reserve(file_.tensors.size());
  for (std::size_t i = 0; i < file_.tensors.size(); ++i)
    if (!gone_[i]) left.push_back(std::move(file_.tensors[i]));
  file_.tensors = std::move(left);
}

StoredTensor packed_tensor(std::string name, std::string format, Shape shape, DType dtype,
                           const StoredTensor& codes, std::function<Tensor()> read) {
  StoredTensor r;
  r.name = std::move(name);
  r.format = std::move(format);
  r.shape = std::move(shape);
  r.dtype = dtype;
  r.bytes = codes.bytes;
  r.content = std::make_shared<PackedContent>(codes.content, std::move(read));
  return r;
}

void bad_layout(const StateFile& file, const std::string& name, std::initializer_list<Part> why) {
  fail<FileError>({file.path, ": tensor \"", name, "\": ", join(why)});
}

void unpack_layouts(StateFile& file, const ModelConfig& config, const LoadStateOptions& options) {
  TensorGroups groups(file);
  if (options.for_bitlinear) bitnet_for_bitlinear(groups, config);
  if (!options.unpack) return groups.finish();
  unpack_bitsandbytes(groups);
  unpack_torchao(groups);
  unpack_gpt_oss(groups);
  unpack_bitnet(groups, config);
  unpack_compressed_tensors(groups, config);
  unpack_scaled(groups, config);
  groups.finish();
}

}  // namespace dropin::serialize_detail
