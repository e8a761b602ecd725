// Data for training: text, generated tasks, and a loader that works ahead in the background.
#pragma once
#include <functional>
#include <string>

#include "dropin/tensor/tensor.h"

namespace dropin {

/// Inputs and targets of one step.
struct Batch {
  Tensor x, y;
};

/// A text as bytes, for byte-level language models: the first 90 % to train on, the rest to
/// validate.
class TextDataset {
 public:
  /// Reads a file; FileError when it is missing or shorter than 16 bytes.
  explicit TextDataset(const std::string& path);
  /// The same of a text; `label` stands for the file's name in messages.
  static TextDataset from_string(std::string text, std::string label = "text");
  int64_t size() const { return static_cast<int64_t>(text_.size()); }
  int64_t train_size() const { return size() * 9 / 10; }
  /// `batch` random windows of the training part: x [B, L] and y [B, L] (the next bytes), int64.
  /// The generator says which.
  Batch sample(int64_t batch, int64_t length, Generator& g) const;
  /// Windows of the validation part, evenly spread, the same each time.
  Batch validation(int64_t batch, int64_t length) const;

 private:
  TextDataset() = default;
  Batch windows(const std::vector<int64_t>& starts, int64_t length) const;
  std::string text_, label_;
};

/// A text of simple English sentences from a fixed grammar, `bytes` long: something to learn when
/// no file is at hand.
std::string grammar_text(int64_t bytes, std::uint64_t seed = 0);

/// Associative recall (Poli et al. 2023, appendix A): key value key value ... key -> the value that
/// followed that key before. x [B, L] int64 with ids below `vocab` (keys below vocab / 2, values
/// above), L odd and at least 3; y [B, L] holds the answer at the last position and -100 (ignored
/// by cross_entropy) elsewhere.
Batch recall_batch(int64_t batch, int64_t length, int64_t vocab, Generator& g);

/// Drawn 28 x 28 glyphs of 10 kinds (ring, disc, frame, box, cross, plus, slash, triangle, bars,
/// waves) at random places, sizes and noise: x [B, 1, 28, 28] f32, y [B] int64.
Batch glyph_batch(int64_t batch, Generator& g);

/// Boxes [N, 4] in a 550 x 550 picture, around `objects` centres (0: anywhere), and scores above
/// 0.06: [N], or [classes, N].
struct BoxScene {
  Tensor boxes, scores;
};
BoxScene box_scene(int64_t n, int64_t objects, int64_t classes = 0, std::uint64_t seed = 12345);

/// Makes batch i, i + 1, ... on a thread of its own, a few ahead; batches depend on their number
/// only, so a resumed run sees the same ones.
class BackgroundLoader {
 public:
  BackgroundLoader(std::function<Batch(int64_t)> make, int64_t first, int64_t ahead = 2);
  ~BackgroundLoader();
  BackgroundLoader(const BackgroundLoader&) = delete;
  BackgroundLoader& operator=(const BackgroundLoader&) = delete;
  /// The next batch; rethrows what `make` threw.
  Batch next();

 private:
  struct State;
  State* state_;
};

}  // namespace dropin
