#include "serialize/pickle.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "dropin/core/json.h"

namespace dropin::serialize_detail {

namespace {

using Kind = PickleNode::Kind;

constexpr std::size_t kMaxBigIntBytes = 1024, kMaxArguments = 16;

struct TorchDType {
  const char *dtype, *storage, *format;
};
constexpr TorchDType kTorchDTypes[] = {{"float32", "FloatStorage", "F32"},
                                       {"float64", "DoubleStorage", "F64"},
                                       {"float16", "HalfStorage", "F16"},
                                       {"bfloat16", "BFloat16Storage", "BF16"},
                                       {"int64", "LongStorage", "I64"},
                                       {"int32", "IntStorage", "I32"},
                                       {"int16", "ShortStorage", "I16"},
                                       {"int8", "CharStorage", "I8"},
                                       {"uint8", "ByteStorage", "U8"},
                                       {"bool", "BoolStorage", "BOOL"},
                                       {"complex64", "ComplexFloatStorage", "C64"},
                                       {"complex128", "ComplexDoubleStorage", "C128"},
                                       {"uint16", nullptr, "U16"},
                                       {"uint32", nullptr, "U32"},
                                       {"uint64", nullptr, "U64"},
                                       {"float8_e4m3fn", nullptr, "F8_E4M3"},
                                       {"float8_e5m2", nullptr, "F8_E5M2"},
                                       {"float8_e4m3fnuz", nullptr, "F8_E4M3FNUZ"},
                                       {"float8_e5m2fnuz", nullptr, "F8_E5M2FNUZ"},
                                       {"float8_e8m0fnu", nullptr, "F8_E8M0"},
                                       {"float4_e2m1fn_x2", nullptr, "F4"}};

/// What may be named besides torch's dtypes and storages.
constexpr const char* kAllowedGlobals[] = {"torch._utils._rebuild_tensor_v2",
                                           "torch._utils._rebuild_tensor_v3",
                                           "torch._utils._rebuild_tensor",
                                           "torch._utils._rebuild_parameter",
                                           "torch._utils._rebuild_parameter_with_state",
                                           "collections.OrderedDict",
                                           "collections.Counter",
                                           "torch.Size",
                                           "torch.device",
                                           "torch.storage.UntypedStorage",
                                           "builtins.set",
                                           "builtins.frozenset",
                                           "builtins.complex",
                                           "builtins.bytes",
                                           "builtins.bytearray",
                                           "_codecs.encode"};

const TorchDType* dtype_named(std::string_view name) {
  for (const TorchDType& t : kTorchDTypes)
    if (name == t.dtype) return &t;
  return nullptr;
}
const TorchDType* storage_named(std::string_view name) {
  for (const TorchDType& t : kTorchDTypes)
    if (t.storage && name == t.storage) return &t;
  return nullptr;
}

/// The decimal digits of a little-endian number in two's complement.
std::string big_digits(std::string_view bytes) {
  std::vector<std::uint32_t> limbs((bytes.size() + 3) / 4);
  const bool negative = !bytes.empty() && (bytes.back() & 0x80);
  for (std::size_t i = 0; i < 4 * limbs.size(); ++i) {
    const std::uint32_t b = i < bytes.size() ? static_cast<unsigned char>(bytes[i])
                            : negative       ? 0xff
                                             : 0;
    limbs[i / 4] |= b << (i % 4 * 8);
  }
  if (negative) {
    std::uint64_t carry = 1;
    for (std::uint32_t& l : limbs) {
      carry += static_cast<std::uint32_t>(~l);
      l = static_cast<std::uint32_t>(carry);
      carry >>= 32;
    }
  }
  std::string digits;
  while (!limbs.empty()) {
    std::uint64_t rest = 0;
    for (std::size_t i = limbs.size(); i-- > 0;) {
      rest = rest << 32 | limbs[i];
      limbs[i] = static_cast<std::uint32_t>(rest / 1'000'000'000);
      rest %= 1'000'000'000;
    }
    while (!limbs.empty() && limbs.back() == 0) limbs.pop_back();
    for (int i = 0; i < 9; ++i, rest /= 10) digits += static_cast<char>('0' + rest % 10);
  }
  while (digits.size() > 1 && digits.back() == '0') digits.pop_back();
  if (digits.empty()) digits = "0";
  if (negative) digits += '-';
  std::reverse(digits.begin(), digits.end());
  return digits;
}

class PickleMachine {
 public:
  PickleMachine(const std::string& label, std::string_view data) : label_(label), data_(data) {}
  Pickled run() {
    while (!step()) {
    }
    out_.root = pop();
    if (!stack_.empty()) bad({"leaves ", static_cast<int64_t>(stack_.size()), " values behind"});
    out_.bytes = at_;
    return std::move(out_);
  }

 private:
  using Id = std::uint32_t;

  [[noreturn]] void bad(std::initializer_list<Part> why) const {
    fail<FileError>({label_, ": pickle, byte ", static_cast<int64_t>(op_at_), ": ", join(why)});
  }
  [[noreturn]] void refuse(const std::string& name) const {
    fail<FileError>({label_, ": the pickle asks for ", name,
                     ", and only tensors, dicts, lists, numbers and texts are read; save the "
                     "weights alone: torch.save(model.state_dict(), PATH)"});
  }

  std::string_view take(std::uint64_t n) {
    if (n > data_.size() - at_)
      bad({"needs ", n, " bytes, ", static_cast<int64_t>(data_.size() - at_), " are left"});
    const std::string_view r = data_.substr(at_, n);
    at_ += n;
    return r;
  }
  template <class T>
  T number() {
    T v;
    std::memcpy(&v, take(sizeof v).data(), sizeof v);
    return v;
  }
  std::string_view line() {
    const std::size_t end = data_.find('\n', at_);
    if (end == data_.npos) bad({"a line does not end"});
    const std::string_view r = data_.substr(at_, end - at_);
    at_ = end + 1;
    return r;
  }

  Id add(PickleNode n) {
    out_.nodes.push_back(std::move(n));
    return static_cast<Id>(out_.nodes.size() - 1);
  }
  void push(Id id) { stack_.push_back(id); }
  void push(PickleNode n) { push(add(std::move(n))); }
  void push_int(std::int64_t v) { push({.kind = Kind::Int, .integer = v}); }
  void push_text(std::string_view s, Kind kind) {
    if (kind == Kind::Text && !is_utf8(s)) bad({"a text is not UTF-8"});
    push({.kind = kind, .text = std::string(s)});
  }
  Id pop() {
    if (stack_.size() <= floor()) bad({"takes a value where there is none"});
    const Id id = stack_.back();
    stack_.pop_back();
    return id;
  }
  Id& top() {
    if (stack_.size() <= floor()) bad({"takes a value where there is none"});
    return stack_.back();
  }
  std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  /// What was pushed since the last mark, which is taken off.
  std::vector<Id> pop_mark() {
    if (marks_.empty()) bad({"there is no mark"});
    std::vector<Id> r(stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back()), stack_.end());
    stack_.resize(marks_.back());
    marks_.pop_back();
    return r;
  }
  PickleNode& node(Id id) { return out_.nodes[id]; }
  /// Counts what is copied from values that may be referred to again and again: no more than the
  /// pickle is long, or a short one could ask for any amount.
  void spend(std::size_t n) {
    spent_ += n;
    if (spent_ > data_.size()) bad({"copies the same values again and again"});
  }
  /// The entries of a tuple of arguments.
  std::vector<Id> arguments(Id tuple) {
    if (node(tuple).kind != Kind::Tuple || node(tuple).items.size() > kMaxArguments)
      bad({"a call's arguments are no tuple of at most ", static_cast<int64_t>(kMaxArguments)});
    return node(tuple).items;
  }

  void extend(Kind kind, const std::vector<Id>& items) {
    PickleNode& n = node(top());
    if (n.kind != kind) bad({kind == Kind::Dict ? "a dict" : "a list", " is expected to add to"});
    if (kind == Kind::Dict && items.size() % 2) bad({"a dict's key has no value"});
    n.items.insert(n.items.end(), items.begin(), items.end());
  }
  void push_tuple(std::size_t n) {
    PickleNode t{.kind = Kind::Tuple};
    t.items.resize(n);
    for (std::size_t i = n; i-- > 0;) t.items[i] = pop();
    push(std::move(t));
  }
  void push_long(std::uint64_t bytes) {
    const std::string_view v = take(bytes);
    if (bytes > kMaxBigIntBytes) bad({"an integer of ", bytes, " bytes; at most 1024 are read"});
    if (bytes > 8) return push({.kind = Kind::BigInt, .text = big_digits(v)});
    std::int64_t n = bytes && (v.back() & 0x80) ? -1 : 0;
    if (bytes) std::memcpy(&n, v.data(), bytes);
    push_int(n);
  }
  void remember(std::uint64_t key) { memo_[key] = top(); }
  void recall(std::uint64_t key) {
    const auto at = memo_.find(key);
    if (at == memo_.end()) bad({"takes value ", key, " from a memo that does not hold it"});
    push(at->second);
  }

  bool step();
  bool step_numbers(unsigned char op);
  bool step_texts(unsigned char op);
  bool step_containers(unsigned char op);
  bool step_memo(unsigned char op);
  void global(std::string_view module, std::string_view name);
  void reduce();
  void encode(const std::vector<Id>& args);
  void build();
  void persistent();
  void rebuild_tensor(const std::string& name, const std::vector<Id>& args);
  std::vector<std::int64_t> integers(Id tuple, const char* what);
  std::int64_t count_of(Id id, const char* what);

  const std::string& label_;
  std::string_view data_;
  std::size_t at_ = 0, op_at_ = 0, spent_ = 0;
  Pickled out_;
  std::vector<Id> stack_;
  std::vector<std::size_t> marks_;
  std::unordered_map<std::uint64_t, Id> memo_;
  std::unordered_map<std::string, Id> globals_;
};

void PickleMachine::global(std::string_view module_, std::string_view name) {
  if (!is_utf8(module_) || !is_utf8(name)) bad({"asks for a name that is not UTF-8"});
  std::string module(module_);
  if (module == "__builtin__") module = "builtins";
  const std::string full = module + "." + std::string(name);
  Id& known = globals_.try_emplace(full, Id(-1)).first->second;
  if (known == Id(-1)) {
    const bool torch = module == "torch";
    const bool allowed = (torch && (dtype_named(name) || storage_named(name))) ||
                         std::find(std::begin(kAllowedGlobals), std::end(kAllowedGlobals), full) !=
                             std::end(kAllowedGlobals);
    if (!allowed) refuse(full);
    known = add({.kind = torch && dtype_named(name) ? Kind::DType : Kind::Global, .text = full});
  }
  push(known);
}

std::vector<std::int64_t> PickleMachine::integers(Id id, const char* what) {
  std::vector<std::int64_t> r;
  if ((node(id).kind != Kind::Tuple && node(id).kind != Kind::List) ||
      node(id).items.size() > abi::kMaxDims)
    bad({what, " is no tuple of at most 8"});
  for (const Id i : node(id).items) r.push_back(count_of(i, what));
  return r;
}

std::int64_t PickleMachine::count_of(Id id, const char* what) {
  if (node(id).kind != Kind::Int || node(id).integer < 0) bad({what, " is no count"});
  return node(id).integer;
}

void PickleMachine::rebuild_tensor(const std::string& name, const std::vector<Id>& args) {
  const bool third = name.ends_with("_v3");
  if (args.size() < (third ? 7u : 4u) || node(args[0]).kind != Kind::Storage)
    bad({name, " is not called with a storage, offset, sizes and strides"});
  PickledTensor t;
  t.storage = static_cast<std::size_t>(node(args[0]).integer);
  t.format = out_.storages[t.storage].format;
  t.offset = static_cast<std::uint64_t>(count_of(args[1], "a tensor's offset"));
  t.sizes = integers(args[2], "a tensor's size");
  t.strides = integers(args[3], "a tensor's stride");
  if (t.sizes.size() != t.strides.size())
    bad({"a tensor has ", static_cast<int64_t>(t.sizes.size()), " sizes and ",
         static_cast<int64_t>(t.strides.size()), " strides"});
  if (third) {
    if (node(args[6]).kind != Kind::DType) bad({"a tensor's dtype is none"});
    t.format = find_stored_format(dtype_named(node(args[6]).text.substr(6))->format);
  }
  if (!t.format) bad({"a tensor of an untyped storage has no dtype"});
  // A last argument: {'conj': True} or {'neg': True} where PyTorch has not carried that out yet.
  const std::size_t lazy = third ? 7 : 6;
  if (args.size() > lazy && !node(args[lazy]).items.empty())
    bad(
        {"a tensor is stored as its conjugate or negative, expected plain values; save "
         "tensor.resolve_conj().resolve_neg()"});
  out_.tensors.push_back(std::move(t));
  push({.kind = Kind::Tensor, .integer = static_cast<std::int64_t>(out_.tensors.size() - 1)});
}

/// Bytes as protocol 2 writes them: a text of the characters 0 to 255, and "latin1".
void PickleMachine::encode(const std::vector<Id>& args) {
  if (args.size() != 2 || node(args[1]).kind != Kind::Text || node(args[1]).text != "latin1")
    bad({"encodes a text in what is not latin1"});
  std::string bytes;
  const std::string& s = node(args[0]).text;
  spend(s.size());
  for (std::size_t i = 0; i < s.size(); ++i) {
    const auto c = static_cast<unsigned char>(s[i]);
    if (c >= 0xc4) bad({"a text does not fit latin1"});
    bytes += static_cast<char>(c < 0x80 ? c : (c & 3) << 6 | (s[++i] & 63));
  }
  push({.kind = Kind::Bytes, .text = bytes});
}

void PickleMachine::reduce() {
  const std::vector<Id> args = arguments(pop());
  const Id callee = pop();
  if (node(callee).kind != Kind::Global) bad({"calls what is no function"});
  const std::string name = node(callee).text;
  const auto is = [&](std::size_t i, Kind kind) {
    return i < args.size() && node(args[i]).kind == kind;
  };
  if (name.starts_with("torch._utils._rebuild_tensor")) return rebuild_tensor(name, args);
  if (name.starts_with("torch._utils._rebuild_parameter") && is(0, Kind::Tensor))
    return push(args[0]);  // its attributes are no entries
  if (name == "collections.OrderedDict" || name == "collections.Counter") {
    if (args.empty()) return push({.kind = Kind::Dict});
    if (args.size() == 1 && is(0, Kind::Dict)) return push(args[0]);
    if (args.size() == 1 && is(0, Kind::List)) {  // of pairs
      PickleNode d{.kind = Kind::Dict};
      spend(2 * node(args[0]).items.size());
      for (const Id pair : node(args[0]).items) {
        if (node(pair).items.size() != 2) bad({name, " of what are no pairs"});
        d.items.insert(d.items.end(), node(pair).items.begin(), node(pair).items.end());
      }
      return push(std::move(d));
    }
  }
  if (name == "torch.Size" && args.size() == 1 && (is(0, Kind::Tuple) || is(0, Kind::List)))
    return push(args[0]);
  if (name == "torch.device" && is(0, Kind::Text)) {
    std::string where = node(args[0]).text;
    spend(where.size());
    if (is(1, Kind::Int)) where += ":" + std::to_string(node(args[1]).integer);
    return push({.kind = Kind::Device, .text = where});
  }
  if (name == "builtins.set" || name == "builtins.frozenset") {
    if (args.empty()) return push({.kind = Kind::List});
    if (args.size() == 1 && is(0, Kind::List)) return push(args[0]);
  }
  if (name == "builtins.complex" && args.size() == 2) {
    PickleNode c{.kind = Kind::Complex};
    c.items = args;
    return push(std::move(c));
  }
  if (name == "_codecs.encode" && is(0, Kind::Text)) return encode(args);
  if (name == "builtins.bytes" && args.empty()) return push({.kind = Kind::Bytes});
  if (name == "builtins.bytearray" && (args.empty() || is(0, Kind::Bytes))) {
    if (!args.empty()) spend(node(args[0]).text.size());
    return push({.kind = Kind::Bytes, .text = args.empty() ? "" : node(args[0]).text});
  }
  bad({"calls ", name, " with what it does not take"});
}

/// Attributes of a dict (a state_dict's _metadata) are no entries.
void PickleMachine::build() {
  pop();
  if (node(top()).kind != Kind::Dict) bad({"sets attributes of what is no dict"});
}

/// ('storage', TYPE, KEY, device, count), in the older format also a view: (key, offset, count).
void PickleMachine::persistent() {
  const Id id = pop();
  const std::vector<Id> args = arguments(id);
  const auto kind = [&](std::size_t i) { return node(args[i]).kind; };
  if (args.size() < 5 || kind(0) != Kind::Text || node(args[0]).text != "storage" ||
      kind(1) != Kind::Global || kind(2) != Kind::Text)
    bad({"a persistent id is no storage"});
  const std::string& type = node(args[1]).text;
  PickledStorage s;
  s.key = node(args[2]).text;
  spend(s.key.size());
  s.count = static_cast<std::uint64_t>(count_of(args[4], "a storage's count"));
  if (type != "torch.storage.UntypedStorage") {
    const TorchDType* t = type.starts_with("torch.") ? storage_named(type.substr(6)) : nullptr;
    if (!t) bad({type, " is no storage"});
    s.format = find_stored_format(t->format);
  }
  if (args.size() > 5 && kind(5) == Kind::Tuple) {
    const std::vector<Id> view = arguments(args[5]);
    if (view.size() != 3) bad({"a storage's view is no triple"});
    s.offset = static_cast<std::uint64_t>(count_of(view[1], "a view's offset"));
  }
  out_.storages.push_back(std::move(s));
  push({.kind = Kind::Storage, .integer = static_cast<std::int64_t>(out_.storages.size() - 1)});
}

bool PickleMachine::step_numbers(unsigned char op) {
  switch (op) {
    case 'N':
      push({.kind = Kind::None});
      return true;
    case 0x88:
    case 0x89:
      push({.kind = Kind::Bool, .integer = op == 0x88});
      return true;
    case 'J':
      push_int(number<std::int32_t>());
      return true;
    case 'K':
      push_int(number<std::uint8_t>());
      return true;
    case 'M':
      push_int(number<std::uint16_t>());
      return true;
    case 0x8a:
      push_long(number<std::uint8_t>());
      return true;
    case 0x8b: {
      const auto n = number<std::int32_t>();
      if (n < 0) bad({"an integer of ", n, " bytes"});
      push_long(static_cast<std::uint64_t>(n));
      return true;
    }
    case 'G': {
      auto bits = __builtin_bswap64(number<std::uint64_t>());
      double v;
      std::memcpy(&v, &bits, 8);
      push({.kind = Kind::Float, .real = v});
      return true;
    }
    default:
      return false;
  }
}

bool PickleMachine::step_texts(unsigned char op) {
  switch (op) {
    case 'X':
      push_text(take(number<std::uint32_t>()), Kind::Text);
      return true;
    case 0x8c:
      push_text(take(number<std::uint8_t>()), Kind::Text);
      return true;
    case 0x8d:
      push_text(take(number<std::uint64_t>()), Kind::Text);
      return true;
    case 'B':
      push_text(take(number<std::uint32_t>()), Kind::Bytes);
      return true;
    case 'C':
      push_text(take(number<std::uint8_t>()), Kind::Bytes);
      return true;
    case 0x8e:
    case 0x96:
      push_text(take(number<std::uint64_t>()), Kind::Bytes);
      return true;
    default:
      return false;
  }
}

bool PickleMachine::step_containers(unsigned char op) {
  switch (op) {
    case '(':
      marks_.push_back(stack_.size());
      return true;
    case '}':
      push({.kind = Kind::Dict});
      return true;
    case ']':
    case 0x8f:
      push({.kind = Kind::List});
      return true;
    case ')':
      push({.kind = Kind::Tuple});
      return true;
    case 't':
    case 0x91: {
      PickleNode n{.kind = op == 't' ? Kind::Tuple : Kind::List};
      n.items = pop_mark();
      push(std::move(n));
      return true;
    }
    case 0x85:
    case 0x86:
    case 0x87:
      push_tuple(op - 0x84u);
      return true;
    case 's': {
      const Id value = pop(), key = pop();
      extend(Kind::Dict, {key, value});
      return true;
    }
    case 'u':
      extend(Kind::Dict, pop_mark());
      return true;
    case 'a': {
      const Id value = pop();
      extend(Kind::List, {value});
      return true;
    }
    case 'e':
    case 0x90:
      extend(Kind::List, pop_mark());
      return true;
    default:
      return false;
  }
}

bool PickleMachine::step_memo(unsigned char op) {
  switch (op) {
    case 'q':
      remember(number<std::uint8_t>());
      return true;
    case 'r':
      remember(number<std::uint32_t>());
      return true;
    case 0x94:
      remember(memo_.size());
      return true;
    case 'h':
      recall(number<std::uint8_t>());
      return true;
    case 'j':
      recall(number<std::uint32_t>());
      return true;
    case '0':
      pop();
      return true;
    case '2':
      push(top());
      return true;
    case 0x95:  // a frame's length
      take(8);
      return true;
    default:
      return false;
  }
}

/// True at the end.
bool PickleMachine::step() {
  op_at_ = at_;
  const auto op = number<std::uint8_t>();
  if (step_numbers(op) || step_texts(op) || step_containers(op) || step_memo(op)) return false;
  switch (op) {
    case 0x80: {
      const int protocol = number<std::uint8_t>();
      if (protocol < 2 || protocol > 5) bad({"protocol ", protocol, ", expected 2 to 5"});
      return false;
    }
    case 'c': {
      const std::string_view module = line();
      global(module, line());
      return false;
    }
    case 0x93: {
      const Id name = pop(), module = pop();
      if (node(name).kind != Kind::Text || node(module).kind != Kind::Text)
        bad({"a class is named by what is no text"});
      global(std::string(node(module).text), std::string(node(name).text));
      return false;
    }
    case 'R':
      reduce();
      return false;
    case 'b':
      build();
      return false;
    case 'Q':
      persistent();
      return false;
    case 0x81: {  // NEWOBJ of what is allowed
      reduce();
      return false;
    }
    case '.':
      return true;
    default:
      bad({"opcode ", static_cast<int>(op), ", which builds what is not read"});
  }
}

}  // namespace

Pickled read_pickle(const std::string& label, std::string_view data) {
  return PickleMachine(label, data).run();
}

}  // namespace dropin::serialize_detail
