// Prompter: the embedding of any region from an encoder's tokens and a box or a text (CLOC).
#pragma once
#include "dropin/feed_forward/feed_forward.h"
#include "dropin/norm/norm.h"
#include "dropin/projection/linear.h"

namespace dropin {

struct PrompterOptions {
  int64_t embed_dim = 0;  ///< required
  int64_t num_heads = 1, out_dim = 0, mlp_ratio = 4;
  std::string prompt = "box";
  int64_t num_freqs = 8, text_dim = 0;
  static void fields(auto&& f) {
    using O = PrompterOptions;
    f("embed_dim", &O::embed_dim, "width C of the image's tokens; required");
    f("num_heads", &O::num_heads, "heads; divides embed_dim");
    f("out_dim", &O::out_dim, "width of the region's embedding; 0: embed_dim");
    f("mlp_ratio", &O::mlp_ratio, "hidden width of the MLP over embed_dim");
    f("prompt", &O::prompt, "\"box\", \"text\", or \"both\": the call picks");
    f("num_freqs", &O::num_freqs, "frequencies of each coordinate's code");
    f("text_dim", &O::text_dim, "width of text prompts; required for them");
  }
};

/// One pre-norm transformer layer over a prompt and the image's tokens, at the prompt's place only
/// (Chen et al. 2025, arXiv 2410.02746): each prompt sees itself and the image. image_features
/// [B, P, C] with boxes [B, M, 4] (x1, y1, x2, y2 in 0 to 1) or text_features [B, M, text_dim] ->
/// y [B, M, out_dim] and hidden [B, M, C]. Replaces pooling of features under a box.
class Prompter : public Component<Prompter, PrompterOptions, Module> {
 public:
  using Family = Prompter;
  static constexpr const char* kFamily = "RegionEmbedding";
  static FamilyInfo family();
  static constexpr const char* kSummary = "embeddings of regions given by a box or a text";
  static constexpr const char* kPaper = "Chen et al. 2025, arXiv 2410.02746";
  static std::vector<std::string> examples();
  static Sample sample(const PrompterOptions& o, const SampleSpec& s);
  explicit Prompter(const PrompterOptions& o);
  /// What every prompt asks of an image: kept, later prompts cost little.
  struct Cache {
    Tensor k, v;  ///< [B, heads, P, C / heads]
  };
  struct Result {
    Tensor y, hidden;
  };
  Cache cache(const Tensor& image_features);
  /// One of boxes and text_features is defined.
  Result forward(const Cache& image, const Tensor& boxes, const Tensor& text_features = {});
  Result forward(const Tensor& image_features, const Tensor& boxes,
                 const Tensor& text_features = {}) {
    return forward(cache(image_features), boxes, text_features);
  }
  NamedTensors call(const NamedTensors& in) override;
  bool runs_hooks() const override { return true; }

 private:
  Tensor embedded_boxes(const Tensor& boxes, int64_t batch);
  Tensor embedded_texts(const Tensor& text, int64_t batch);
  Tensor heads(const Tensor& x) const;
  Child<Linear> box_proj_, text_proj_, q_, k_, v_, out_, proj_;
  Child<MLP> mlp_;
  Child<LayerNorm> norm1_, norm2_, norm3_;
  Tensor *box_embed_ = nullptr, *text_embed_ = nullptr;
};

}  // namespace dropin
