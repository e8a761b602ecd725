#include "dropin/serialize/name_map.h"

#include <algorithm>
#include <cctype>
#include <unordered_set>

#include "dropin/ops/ops.h"
#include "serialize/name_map_tables.h"

namespace dropin {

namespace {

/// What the wildcards of a pattern stood for, and how much of the name it covered.
struct Matched {
  std::vector<std::string_view> numbers;
  std::size_t length = 0;
};

bool matches(std::string_view pattern, std::string_view name, Matched& m) {
  std::size_t at = 0;
  for (const char c : pattern) {
    if (c != '*') {
      if (at >= name.size() || name[at] != c) return false;
      ++at;
      continue;
    }
    const std::size_t begin = at;
    while (at < name.size() && name[at] >= '0' && name[at] <= '9') ++at;
    if (at == begin) return false;
    m.numbers.push_back(name.substr(begin, at - begin));
  }
  m.length = at;
  return at == name.size() || pattern.back() == '.';
}

std::string_view without_leads(std::string_view name, const NameMap& map) {
  for (const std::string_view lead : {std::string_view("module."), std::string_view("_orig_mod.")})
    if (name.substr(0, lead.size()) == lead) name.remove_prefix(lead.size());
  if (!map.prefix.empty() && name.substr(0, map.prefix.size()) == map.prefix)
    name.remove_prefix(map.prefix.size());
  return name;
}

const NameRule* find_rule(const NameMap& map, std::string_view name, std::string& ours) {
  name = without_leads(name, map);
  for (const NameRule& r : map.rules) {
    Matched m;
    if (!matches(r.theirs, name, m)) continue;
    ours.clear();
    std::size_t next = 0;
    for (const char c : r.ours)
      if (c == '*' && next < m.numbers.size())
        ours += m.numbers[next++];
      else
        ours += c;
    ours += name.substr(m.length);
    return &r;
  }
  return nullptr;
}

/// A tensor of which something else is read.
class ChangedContent final : public TensorContent {
 public:
  ChangedContent(StoredTensor from, NameRule::Change change)
      : from_(std::move(from)), change_(change) {}
  Tensor read() const override {
    const Tensor t = from_.read();
    return (change_ == NameRule::Transpose ? t.t() : t.narrow(0, 2, t.size(0) - 2)).contiguous();
  }
  void raw(std::uint64_t begin, std::uint64_t count, void* out) const override {
    const Tensor t = read();
    std::memcpy(out, static_cast<const char*>(t.data_ptr()) + begin, count);
  }

 private:
  StoredTensor from_;
  NameRule::Change change_;
};

/// The stored form of what changes is that of its dtype.
void change_values(StoredTensor& t, NameRule::Change change, const StateFile& file) {
  const StoredTensor before = t;
  if (change == NameRule::Transpose) {
    if (t.shape.size() != 2)
      fail<FileError>({file.path, ": tensor \"", t.name, "\" is ", t.shape,
                       ", expected a matrix, which the map transposes"});
    t.shape = {before.shape[1], before.shape[0]};
  } else {
    if (t.shape.size() == 0 || t.shape[0] < 2)
      fail<FileError>({file.path, ": tensor \"", t.name, "\" is ", t.shape,
                       ", expected at least the two rows that the map leaves out"});
    t.shape[0] -= 2;
  }
  t.content = std::make_shared<ChangedContent>(before, change);
  const char* const own[] = {"F32", "F64", "BF16", "F16", "I8", "U8", "I32", "I64", "BOOL"};
  const DType types[] = {kFloat32, kFloat64, kBFloat16, kFloat16, kInt8,
                         kUInt8,   kInt32,   kInt64,    kBool};
  for (std::size_t i = 0; i < 9; ++i)
    if (types[i] == t.dtype) t.format = own[i];
  t.bytes = static_cast<std::uint64_t>(item_size(t.dtype));
  for (const int64_t n : t.shape) t.bytes *= static_cast<std::uint64_t>(n);
}

std::string lower(std::string_view s) {
  std::string r(s);
  for (char& c : r) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return r;
}

/// Letters and digits alone, in lower case: "GPT-2" as "gpt2".
std::string letters_of(std::string_view s) {
  std::string r;
  for (const char c : lower(s))
    if (std::isalnum(static_cast<unsigned char>(c))) r += c;
  return r;
}

}  // namespace

const std::vector<NameMap>& name_maps() {
  static const std::vector<NameMap> maps = serialize_detail::name_map_tables();
  return maps;
}

const NameMap& name_map(std::string_view name) {
  std::string have;
  for (const NameMap& m : name_maps()) {
    if (lower(m.name) == lower(name)) return m;
    have += (have.empty() ? "" : ", ") + m.name;
  }
  fail<OptionError>({"there is no name map \"", name, "\", expected one of ", have});
}

NameMapChoice guess_name_map(const StateFile& file) {
  NameMapChoice best;
  std::size_t best_likely = 0;
  for (const NameMap& m : name_maps()) {
    std::size_t n = 0, prefixed = 0;  // names with the map's own prefix
    std::string ours;
    for (const StoredTensor& t : file.tensors) {
      n += find_rule(m, t.name, ours) != nullptr;
      prefixed += !m.prefix.empty() && t.name.compare(0, m.prefix.size(), m.prefix) == 0;
    }
    // Families share names: config.json's word decides before the prefix.
    const std::size_t likely =
        prefixed + (letters_of(m.name) == letters_of(file.model_type) ? 1'000'000 : 0);
    if (n > best.matched || (n == best.matched && n > 0 && likely > best_likely)) {
      best = {m.name, n};
      best_likely = likely;
    }
  }
  if (2 * best.matched < file.tensors.size() || best.matched == 0) return {};
  return best;
}

NameMapReport map_names(StateFile& file, std::string_view which) {
  const NameMap& map = name_map(which);
  NameMapReport r;
  r.map = map.name;
  std::vector<StoredTensor> out;
  std::unordered_set<std::string> names;
  for (const StoredTensor& t : file.tensors) {
    std::string ours;
    const NameRule* rule = find_rule(map, t.name, ours);
    if (rule && rule->change == NameRule::Drop) {
      r.dropped.push_back(t.name);
      continue;
    }
    StoredTensor named = t;
    if (rule) {
      if (rule->change != NameRule::Keep) change_values(named, rule->change, file);
      r.renamed.emplace_back(t.name, ours);
      named.name = ours;
    } else {
      r.unused.push_back(t.name);
    }
    if (!names.insert(named.name).second)
      fail<FileError>({file.path, ": two tensors become \"", named.name, "\" by the map ", map.name,
                       ", one of them \"", t.name, "\""});
    out.push_back(std::move(named));
  }
  for (auto& [name, kept] : file.aliases) {
    std::string ours;
    if (find_rule(map, name, ours)) name = ours;
    if (find_rule(map, kept, ours)) kept = ours;
  }
  file.tensors = std::move(out);
  return r;
}

}  // namespace dropin
