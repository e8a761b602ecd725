// A small language model with weights of three values: trained, packed to 2 bits, and asked for
// text token by token:   example_packed_language_model [text file] Exit 0 when it has learned,
// packing left its predictions alone, and the packed weights are about a sixteenth of the float
// ones.
#include <cmath>
#include <cstdio>
#include <exception>

#include "dropin/dropin.h"

namespace {

using namespace dropin;

std::string generate(Transformer& model, const std::string& prompt, int length, Generator& g) {
  no_grad guard;
  TransformerState state = model.init_state(1);
  std::string text = prompt;
  std::vector<double> ids(prompt.begin(), prompt.end());
  Tensor logits = model.step(tensor(ids, {1, static_cast<int64_t>(ids.size())}, kInt64), state);
  for (int i = 0; i < length; ++i) {
    const Tensor p = softmax(logits[0][-1] * 2.0, -1);  // a temperature of 1/2
    double u = rand({1}, kFloat32, &g).item();
    int64_t next = 0;
    for (const double v : p.to_vector()) {
      if ((u -= v) < 0) break;
      ++next;
    }
    text += static_cast<char>(std::min<int64_t>(next, 127));
    logits = model.step(tensor({static_cast<double>(text.back())}, {1, 1}, kInt64), state);
  }
  return text;
}

int run(const std::string& path) {
  manual_seed(1);
  const TextDataset text =
      path.empty() ? TextDataset::from_string(grammar_text(200000)) : TextDataset(path);
  Transformer model(
      {.vocab_size = 128, .embed_dim = 64, .num_layers = 2, .num_heads = 4, .max_len = 160});
  std::printf(
      "%s",
      swap(model, "Linear", "BitLinear", Json::parse(R"({"variant": "b1.58"})")).str().c_str());
  AdamW optimizer(model.parameters(), {.lr = 3e-3});
  Generator data(2);
  double first = 0, last = 0;
  for (int step = 0; step < 250; ++step) {
    const Batch b = text.sample(8, 64, data);
    const Tensor loss = cross_entropy(model(b.x).reshape({-1, 128}), b.y.reshape({-1}));
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
    last = loss.item();
    if (step == 0) first = last;
  }
  std::printf("loss %.3f -> %.3f\n", first, last);

  model.eval();
  const Batch held = text.validation(4, 64);
  const Tensor before = model(held.x).detach();
  int64_t floats = 0, packed = 0;
  model.apply([&](const std::string&, Module& m) {
    auto* layer = dynamic_cast<BitLinear*>(&m);
    if (!layer) return;
    floats += 4 * layer->state_dict().find("weight").numel();
    layer->pack(/*release=*/true);
    packed += layer->state_dict().find("weight_packed").numel();
  });
  const double moved = amax(abs(model(held.x) - before)).item();
  std::printf("weights %lld bytes -> %lld, largest change of a logit %.2g\n",
              static_cast<long long>(floats), static_cast<long long>(packed), moved);
  Generator g(5);
  std::printf("---\n%s\n---\n", generate(model, "the ", 120, g).c_str());
  return last < 0.6 * first && moved < 1e-3 && packed * 15 < floats ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc > 1 ? argv[1] : "");
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
}
