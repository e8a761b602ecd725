#include "evidence/cases.h"

#include <algorithm>
#include <memory>

namespace dropin::evidence {
namespace {

using std::int64_t;

// The sizes of a family: number i of each list.
constexpr int64_t kLengths[] = {64, 256, 1024, 4096, 16384}, kRows[] = {4, 512, 8192},
                  kValues[] = {1024, 1 << 18, 1 << 23}, kBoxes[] = {16, 1000, 5000};
struct Picture {
  int64_t batch, channels, side;
};
constexpr Picture kPictures[] = {{1, 8, 8}, {1, 64, 56}, {16, 64, 56}};

bool sequences(const ComponentInfo& c) { return c.family == "SequenceMixer"; }
bool pictures(const ComponentInfo& c) {
  return c.family == "ImageMixer" || (c.family == "Layer" && c.name != "Dropout") ||
         c.name == "GroupNorm" || c.name == "BatchNorm2d";
}
int64_t length_of(const ComponentInfo& c, int i) {
  return sequences(c) ? kLengths[i] : int64_t{16} << (2 * i);
}

// Values of the option names that every member of a family understands.
Json common(const ComponentInfo& c, int i) {
  const int64_t channels = kPictures[std::min(i, 2)].channels,
                width =
                    c.family == "Projection" || c.family == "Norm" || c.family == "TokenEmbedding"
                        ? 512
                        : 256;
  Json shape = Json::array();
  shape.push_back(width);
  Json o = Json::object();
  for (const char* name : {"embed_dim", "d_model", "in_features", "out_features", "embedding_dim"})
    o.set(name, width);
  for (const char* name :
       {"in_channels", "out_channels", "channels", "num_features", "num_channels"})
    o.set(name, channels);
  o.set("normalized_shape", shape);
  o.set("num_heads", 4);
  o.set("num_groups", 8);
  o.set("kernel_size", 3);
  o.set("padding", 1);
  o.set("output_size", 7);
  o.set("num_embeddings", 8192);
  o.set("vocab_size", 256);
  o.set("max_len", length_of(c, i));
  o.set("l_max", length_of(c, i));
  return o;
}

const Json* find_default(const ComponentInfo& c, const char* name) {
  for (const FieldInfo& f : c.options)
    if (f.name == name) return &f.value;
  return nullptr;
}
// Only what is left open: names whose default is 0 or nothing.
void fill(Json& o, const ComponentInfo& c, const Json& values) {
  auto open = [](const Json& d) {
    return d.is_null() || (d.is_number() && d.as_double() == 0) || (d.is_array() && d.size() == 0);
  };
  for (const FieldInfo& f : c.options)
    if (!open(f.value))
      continue;
    else if (const Json* v = values.find(f.name); v && !o.find(f.name) &&
                                                  !(f.type == "string" && !v->is_string()) &&
                                                  !(f.type.rfind("list", 0) == 0 && !v->is_array()))
      o.set(f.name, *v);
}

// Options of size i: those that swap() would give in place of the standard member, then the common
// ones.
Json options_of(const ComponentInfo& c, int i, const ComponentInfo* standard) {
  const Json values = common(c, i);
  Json o = Json::object();
  if (c.family == "Model" && c.name != "Transformer") return o;  // made as they are
  if (standard && standard->make_module && c.make_module) {
    Json theirs = Json::object();
    fill(theirs, *standard, values);
    const Json given =
        replacing_options(*standard, standard->make_module(theirs)->options_json(), values, c);
    for (const FieldInfo& f : c.options)  // a name may mean a number here and a word there
      if (const Json* v = given.find(f.name); v && (f.type != "string" || v->is_string()))
        o.set(f.name, *v);
  }
  fill(o, c, values);
  return o;
}

Tensor input_of(const ComponentInfo& c, int i, const Json& options) {
  auto option = [&](const char* name, int64_t otherwise) {
    const Json* v = options.find(name);
    if (!v) v = find_default(c, name);
    return v && v->is_int() && v->as_int() > 0 ? v->as_int() : otherwise;
  };
  const Picture p = kPictures[std::min(i, 2)];
  if (c.family == "TokenEmbedding" || c.name == "Transformer")
    return randint(0, 256, {int64_t{1} << std::min(2 * i, 3), length_of(c, i)}, kInt64);
  if (sequences(c)) return randn({1, kLengths[i], option("embed_dim", option("d_model", 256))});
  if (c.family == "Model")
    return randn({i == 0 ? 1 : 8,
                  option("in_channels", c.sample_input.empty() ? 3 : c.sample_input[0]),
                  int64_t{64} << (i / 2), int64_t{64} << (i / 2)});
  if (c.sample_input.size() == 2 && c.family != "Norm")
    return randn({p.batch, option("in_channels", option("d_model", p.channels)),
                  option("l_max", p.side * p.side)});  // [B, C, L]
  if (pictures(c))
    return randn(
        {p.batch,
         option("in_channels",
                option("channels", option("num_features", option("num_channels", p.channels)))),
         p.side, p.side});
  if (c.family == "Projection" || c.family == "MatrixProduct")
    return randn({kRows[i], option("in_features", 512)});
  if (c.family == "FeedForward")
    return randn({kRows[i], option("embed_dim", option("in_features", 256))});
  if (c.family == "Norm") return randn({kRows[i], 512});
  return randn({std::max<int64_t>(1, kValues[i] / 1024), std::min<int64_t>(1024, kValues[i])});
}

std::string label_of(const ComponentInfo& c, int i, const Shape& x) {
  if (sequences(c)) return "L:" + std::to_string(kLengths[i]);
  std::string s;
  for (int64_t n : x) s += (s.empty() ? "" : "x") + std::to_string(n);
  return "x:" + s;
}
double bytes_of(const Tensor& t) {
  return t.defined() ? static_cast<double>(t.numel() * item_size(t.dtype())) : 0;
}
double bytes_of(const NamedTensors& all) {
  double n = 0;
  for (const auto& [name, t] : all) n += bytes_of(t);
  return n;
}

// A device's kernels may still run when a call returns; reading a value waits for them.
void wait(const Tensor& t) {
  if (t.defined() && !(t.device() == kCPU) && t.numel()) t.reshape({-1}).narrow(0, 0, 1).to(kCPU);
}

Case module_case(const ComponentInfo& c, int i, const ComponentInfo* standard, const Json& changes,
                 const Device& device) {
  Case r;
  r.options = options_of(c, i, standard);
  for (const auto& [k, v] : changes.items()) r.options.set(k, v);
  auto made = [&](bool train) {
    manual_seed(1);
    const std::shared_ptr<Module> m(c.make_module(r.options).release());
    m->train(train);
    m->to(device);
    return m;
  };
  const std::shared_ptr<Module> still = made(false), learning = made(true);
  manual_seed(2);
  Tensor x = input_of(c, i, r.options).to(device);
  r.x = x.sizes();
  r.size = label_of(c, i, r.x);
  const bool product = c.family == "MatrixProduct";  // of x and a square matrix
  const Tensor second = product ? randn({x.size(-1), x.size(-1)}).to(device) : Tensor();
  auto call = [product, second](Module& m, const Tensor& in) {
    return (product ? m.call({{"a", in}, {"b", second}}) : m.call({{"x", in}})).get("y", m.type());
  };
  r.forward = [still, x, call] {
    no_grad guard;
    wait(call(*still, x));
  };
  Tensor y;
  {
    no_grad guard;
    y = call(*still, x);
  }
  const Tensor leaf = is_floating(x.dtype()) ? x.detach().requires_grad_() : x;
  const Tensor g =
      randn(y.sizes()).to(device);  // not ones: a norm would answer them with 0, and rounding
  const Tensors parameters = learning->parameters();
  auto both = [learning, leaf, g, parameters, call] {
    if (leaf.requires_grad()) leaf.set_grad({});
    for (const Tensor& p : parameters)
      p.set_grad({}), p.bump_version();  // as after an optimizer's step
    call(*learning, leaf).backward(g);
    wait(leaf.requires_grad() ? leaf.grad() : Tensor());
  };
  double weights = 0, used = 0;
  for (const Tensor& p : parameters) weights += bytes_of(p);
  bool any = leaf.requires_grad();
  for (const Tensor& p : parameters) any = any || p.requires_grad();
  if (any) {
    both();
    r.both = both;
    for (const Tensor& p : parameters)  // what no gradient reached took no part
      if (p.dim() >= 2 && p.grad().defined()) used += static_cast<double>(p.numel());
  }
  const bool channels = pictures(c) || c.sample_input.size() == 2;
  const int64_t places = channels ? y.numel() / std::max<int64_t>(1, y.size(1))
                                  : x.numel() / std::max<int64_t>(1, x.size(-1));
  const double applied =
      c.family == "TokenEmbedding" || (c.family == "Model" && c.name != "Transformer")
          ? 0
          : static_cast<double>(c.name == "Transformer" ? x.numel() : places);
  r.flops = 2 * applied * (used + (product ? static_cast<double>(second.numel()) : 0)) +
            (c.core_flops ? c.core_flops(learning->options_json(), r.x) : 0);
  r.both_flops = 3 * r.flops;
  r.bytes = bytes_of(x) + bytes_of(y) + weights;
  r.both_bytes = 3 * bytes_of(x) + 2 * bytes_of(y) +
                 3 * weights;  // back: x, its gradient and y's; parameters and theirs
  if (c.family == "TokenEmbedding")
    r.bytes = bytes_of(x) + 2 * bytes_of(y),
    r.both_bytes = 2 * bytes_of(x) + 3 * bytes_of(y) + weights;  // rows in use; all of the gradient
  if (y.data_ptr() == x.data_ptr()) r.bytes = 0;                 // x itself is the answer
  r.kept_bytes = weights;
  r.options = learning->options_json();
  r.module = learning;
  r.input = leaf;
  r.gradient = g;
  return r;
}

Case optimizer_case(const ComponentInfo& c, int i, const Json& changes, const Device& device) {
  Case r;
  const int64_t n = i == 2 ? int64_t{1} << 24 : kValues[i] * (i == 0 ? 4 : 1);
  r.x = {n};
  r.size = "n:" + std::to_string(n);
  r.forward_name = "step";
  manual_seed(1);
  const Tensor p = randn({n}).to(device).requires_grad_();
  p.set_grad(randn({n}).to(device));
  r.options = Json::object();
  r.options.set("lr", 1e-6);
  if (find_default(c, "momentum")) r.options.set("momentum", 0.9);
  for (const auto& [k, v] : changes.items()) r.options.set(k, v);
  const std::shared_ptr<Optimizer> o(c.make_optimizer({p}, r.options).release());
  r.input = p.detach().clone();
  r.gradient = p.grad();
  o->step();
  r.forward = [o, p] {
    o->step();
    wait(p);
  };
  r.kept_bytes = static_cast<double>(o->state_bytes());
  r.bytes = 12.0 * static_cast<double>(n) +
            2 * r.kept_bytes;  // p and the state read and written, the gradient read
  return r;
}

Case function_case(const ComponentInfo& c, int i, const Json& changes, const Device& device) {
  Case r;
  const int64_t n = c.family == "Suppression" ? kBoxes[i] : kValues[i];
  if (!c.inputs && c.family != "NumberFormat")
    fail<OptionError>({c.name, " is registered without an example of its inputs"});
  manual_seed(1);
  NamedTensors in;
  const NamedTensors made =
      c.inputs ? c.inputs(n)
               : NamedTensors{
                     {"x", randn({std::max<int64_t>(1, n / 1024), std::min<int64_t>(n, 1024)})}};
  for (const auto& [name, t] : made) in.set(name, t.to(device));
  r.size = "n:" + std::to_string(n);
  r.forward_name = "call";
  r.options = changes;
  auto call = [&c, options = changes, in] {
    no_grad guard;
    return c.call(options, in);
  };
  const NamedTensors out = call();
  r.bytes = bytes_of(in) + bytes_of(out);
  for (const auto& [n1, a] : in)
    for (const auto& [n2, b] : out)
      if (a.numel() && b.data_ptr() == a.data_ptr()) r.bytes = 0;  // the input itself is the answer
  r.forward = [call] {
    const NamedTensors out = call();
    if (out.size()) wait(out.begin()->second);
  };
  return r;
}

}  // namespace

int sizes_of(const ComponentInfo& c) { return sequences(c) ? 5 : 3; }

Case make_case(const ComponentInfo& c, int i, const ComponentInfo* standard, const Json& changes,
               const Device& device) {
  if (c.kind == ComponentKind::Optimizer) return optimizer_case(c, i, changes, device);
  if (c.kind == ComponentKind::Function) return function_case(c, i, changes, device);
  return module_case(c, i, standard, changes, device);
}

const ComponentInfo* standard_of(const ComponentInfo& c) {
  if (!c.replaces.empty() && registry().contains(c.replaces) &&
      registry().find(c.replaces).kind == c.kind)
    return &registry().find(c.replaces);
  if (c.kind == ComponentKind::Function) return nullptr;
  for (const ComponentInfo& other : registry().all())
    if (other.family == c.family && other.kind == c.kind)
      return other.name == c.name ? nullptr : &other;
  return nullptr;
}

}  // namespace dropin::evidence
