// dropin train --task segment: where would newlines be in a text of lines?
#include "cli/text_file.h"
#include "cli/train_tasks.h"
#include "dropin/data/newline_text.h"
#include "dropin/serialize/safetensors.h"
#include "dropin/text/corruption.h"
#include "dropin/text/sentence_segmenter.h"

namespace dropin::cli {

namespace {

class SegmentTask : public Task {
 public:
  explicit SegmentTask(const TaskSettings& s)
      : s_(s),
        batch_(s.batch),
        length_(s.length),
        text_(s.data.empty() ? grammar_text(200'000) : read_text_file(s.data)),
        tokenizer_(WordTokenizer::from_text(part(false), s.vocab)),
        train_(part(false), tokenizer_, length_),
        test_(part(true), tokenizer_, length_) {}
  Box<Module> make_model() const override {
    const int64_t width = s_.width, layers = s_.layers;
    return Box<Module>(new SentenceSegmenter({.vocab_size = tokenizer_.vocab_size(),
                                              .embed_dim = width,
                                              .num_heads = width % 4 == 0 ? 4 : 1,
                                              .mlp_dim = 4 * width,
                                              .num_layers = layers,
                                              .max_positions = length_ + 4,
                                              .lookahead = 2 * layers,
                                              .block_size = length_,
                                              .stride = (length_ + 1) / 2}));
  }
  Batch batch(int64_t i) const override {
    Generator g = batch_generator(s_.seed, i);
    return train_.sample(batch_, true, g);
  }
  Tensor loss(Module& m, const Batch& b) const override {
    const Tensor outside = b.y < 0;  // bos and eos
    return newline_loss(m.call({{"ids", b.x}}).get("logits", m.type()),
                        masked_fill(b.y, outside, 0), outside);
  }
  const char* metric_name() const override { return "F1"; }
  Json notes() const override {
    Json j = Json::object(), words = Json::array();
    for (const std::string& w : tokenizer_.words()) words.push_back(Json(w));
    j.set("words", words);
    return j;
  }
  Score evaluate(Module& m, const Device& d) const override {
    auto* segmenter = dynamic_cast<SentenceSegmenter*>(&m);
    if (!segmenter)
      fail<OptionError>({"train: the model is a ", m.type(),
                         ", expected a SentenceSegmenter for the segment task"});
    no_grad guard;
    Generator g = batch_generator(s_.seed, 0, true);
    const Batch b = test_.sample(batch_, true, g);
    const double l = loss(m, {b.x.to(d), b.y.to(d)}).item();
    const NewlineText::Ends all = test_.ends(false);
    const Tensor probs = segmenter->newline_probs(all.ids.to(d)).to(kCPU);
    return {l, ends_f1(probs, all.ends, segmenter->options().threshold)};
  }

 private:
  // The first nine tenths to train on, or the rest; cut behind a line.
  std::string_view part(bool test) const {
    const std::string_view all = text_;
    const std::size_t line = all.find('\n', all.size() / 10 * 9),
                      cut = line == std::string_view::npos ? all.size() : line + 1;
    return test ? all.substr(cut) : all.substr(0, cut);
  }

  TaskSettings s_;
  int64_t batch_, length_;
  std::string text_;
  WordTokenizer tokenizer_;
  NewlineText train_, test_;
};

}  // namespace

Box<Task> make_segment_task(const TaskSettings& s) { return Box<Task>(new SegmentTask(s)); }

}  // namespace dropin::cli
