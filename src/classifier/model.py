"""The classifier: a timm Vision Transformer, a small head, and the bank of normal features that scores anomalies."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbone.vit import evaluating, image_transform, load_backbone
from ..config import CLASS_NAMES, Config
from ..data.tables import Classes
from ..scores import confidence_anomaly_scores, cosine_anomaly_scores, hybrid_anomaly_scores

# Settings of a run that make the network; with the classes they stand in its checkpoint.
OPTIONS = ("backbone", "image_size", "keep_blocks", "feature_blocks", "dropout", "hidden_features", "similarity_weight")


class ViTMultiClassClassifier(nn.Module):
    """Kinds of leather surface, and how far an image is from normal ones. Options without a word are `Config`'s.

    Args:
        num_classes: Number of classes; must be that of ``class_names``.
        pretrained: False leaves the backbone at random weights.
        class_names: Names in the order of the outputs; None takes the six published ones.
        normal_class: The class that counts as not anomalous, found by name.
        feature_blocks: Blocks, from 0, whose tokens make the features: of each the class token and the mean and
            standard deviation of the patch tokens. Training standardises them, see `standardise`. None takes
            the backbone's own output, as published.

    Raises ValueError if class names or blocks do not fit, WeightsError and NotATransformerError as `load_backbone`.
    """

    def __init__(
        self,
        num_classes: int = 6,
        pretrained: bool = True,
        *,
        backbone: str = "vit_base_patch16_224",
        weights: str = "timm",
        image_size: int | None = None,
        class_names: tuple[str, ...] | None = None,
        normal_class: str = "non_defective",
        dropout: float = 0.1,
        hidden_features: int = 512,
        similarity_weight: float = 0.7,
        keep_blocks: int | None = None,
        feature_blocks: tuple[int, ...] | None = None,
    ) -> None:
        options = locals()
        super().__init__()
        self.settings = {name: options[name] for name in (*OPTIONS, "normal_class")}
        self.classes = Classes(class_names or CLASS_NAMES, normal_class)
        if len(self.classes.names) != num_classes:
            raise ValueError(f"num_classes is {num_classes}, but there are {len(self.classes.names)} class names")
        self.similarity_weight, self.feature_blocks = similarity_weight, tuple(feature_blocks or ())
        self.vit = load_backbone(
            backbone, weights, image_size=image_size, pretrained=pretrained, keep_blocks=keep_blocks
        )
        self.backbone, self.image_size = self.vit.network, self.vit.image_size
        self.weights_description = self.vit.weights
        self.transform = image_transform(self.image_size, mean=self.vit.mean, std=self.vit.std)
        if not all(0 <= block < self.vit.depth for block in self.feature_blocks):
            raise ValueError(f"feature_blocks is {feature_blocks}; {backbone} has {self.vit.depth} blocks here, from 0")
        self.has_token = getattr(self.backbone, "cls_token", None) is not None
        self.num_features = self.backbone.num_features * ((2 + self.has_token) * len(self.feature_blocks) or 1)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(self.num_features, hidden_features),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_features, num_classes),
        )
        self.register_buffer("feature_mean", torch.zeros(self.num_features))
        self.register_buffer("feature_deviation", torch.ones(self.num_features))
        self.register_buffer("normal_features", torch.empty(0, self.num_features))

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classes.names

    @property
    def normal_class(self) -> str:
        return self.classes.normal

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, classes) and features (n, d) of normalised images (n, 3, size, size)."""
        features = self.standardise(self._raw_features(images))
        return self.classifier(features), features

    @torch.inference_mode()
    def extract_features(self, images: Tensor, *, raw: bool = False) -> Tensor:
        """Features (n, d), float32, without gradient and without dropout; raw ones are not standardised."""
        with evaluating(self):
            features = self._raw_features(images).float()
        return features if raw else self.standardise(features)

    def _raw_features(self, images: Tensor) -> Tensor:
        if not self.feature_blocks:
            return self.backbone(images)
        options = {"intermediates_only": True, "output_fmt": "NLC", "stop_early": True}
        options["return_prefix_tokens"] = self.has_token  # without any, timm gives patches alone
        features = []
        for tokens in self.backbone.forward_intermediates(images, list(self.feature_blocks), **options):
            patches, prefix = tokens if self.has_token else (tokens, None)
            patches = F.layer_norm(patches, patches.shape[-1:])  # blocks differ in scale
            features += [patches.mean(1), patches.std(1)]
            if self.has_token:
                features.append(F.layer_norm(prefix[:, 0], prefix.shape[-1:]))
        return torch.cat(features, dim=1)

    def standardise(self, features: Tensor) -> Tensor:
        """Raw features (n, d) with the mean and deviation of `set_feature_spread`; unchanged if none were set."""
        return (features - self.feature_mean) / self.feature_deviation

    def set_feature_spread(self, raw: Tensor) -> None:
        """Takes mean and deviation of raw features, shape (m >= 2, d): tokens share a large constant part.

        Dimensions that hardly vary are not blown up: a deviation counts as a tenth of their median at least.
        """
        deviation = raw.std(0)
        self.feature_mean.copy_(raw.mean(0))
        self.feature_deviation.copy_(deviation.clamp(min=max(0.1 * deviation.median().item(), 1e-6)))

    def store_normal_features(self, features: Tensor) -> None:
        """Keeps features (m >= 1, d) of normal training images as the bank that cosine scores compare with.

        Raises ValueError if the shape does not fit or a value is not finite.
        """
        if features.ndim != 2 or len(features) == 0 or features.shape[1] != self.num_features:
            raise ValueError(f"expected (m >= 1, {self.num_features}) features, got {tuple(features.shape)}")
        if not torch.isfinite(features).all():
            raise ValueError("the normal features hold values that are not finite")
        self.normal_features = features.detach().float().to(self.normal_features.device)

    def classify_multiclass(self, images: Tensor) -> dict[str, Tensor]:
        """``predicted_classes`` (n,), ``class_probabilities`` (n, classes), ``features`` (n, d)."""
        return self.classify_features(self.extract_features(images))

    @torch.inference_mode()
    def classify_features(self, features: Tensor) -> dict[str, Tensor]:
        """As `classify_multiclass`, from features that are there already."""
        with evaluating(self):
            probabilities = self.classifier(features).float().softmax(dim=1)
        return {
            "predicted_classes": probabilities.argmax(1),
            "class_probabilities": probabilities,
            "features": features,
        }

    def detect_anomaly_hybrid(self, images: Tensor) -> dict[str, Tensor]:
        """Classes and the three anomaly scores of normalised images (n, 3, size, size); higher is more anomalous.

        Returns:
            ``anomaly_scores`` (hybrid, in [0, 2]), ``similarity_scores`` (cosine, in [0, 2]),
            ``classification_scores`` (in [0, 1]), ``predicted_classes``, ``normal_class_prob``, each of shape (n,);
            ``class_probabilities`` (n, classes); ``features`` (n, d).

        Raises RuntimeError if no normal features have been stored.
        """
        return self.detect_from_features(self.extract_features(images))

    @torch.inference_mode()
    def detect_from_features(self, features: Tensor) -> dict[str, Tensor]:
        """As `detect_anomaly_hybrid`, from features that are there already."""
        if len(self.normal_features) == 0:
            raise RuntimeError("no normal features are stored; call store_normal_features with normal training images")
        answers, normal = self.classify_features(features), self.classes.normal_index
        similarity = cosine_anomaly_scores(features, self.normal_features)
        classification = confidence_anomaly_scores(answers["class_probabilities"], normal)
        hybrid = hybrid_anomaly_scores(similarity, classification, similarity_weight=self.similarity_weight)
        return {
            "anomaly_scores": hybrid,
            "similarity_scores": similarity,
            "classification_scores": classification,
            "normal_class_prob": answers["class_probabilities"][:, normal],
            **answers,
        }

    def extract_attention_maps(self, images: Tensor) -> dict[str, Tensor]:
        """The model's own attention to normalised images (n, 3, size, size), see `Backbone.attention_maps`."""
        return self.vit.attention_maps(images)


def create_model(config: Config, classes: Classes, *, pretrained: bool = True) -> ViTMultiClassClassifier:
    """The classifier that a `Config` describes, with a head whose first weights follow from its seed."""
    torch.manual_seed(config.seed)
    return ViTMultiClassClassifier(
        len(classes.names),
        pretrained,
        weights=config.weights,
        class_names=classes.names,
        normal_class=classes.normal,
        **{name: getattr(config, name) for name in OPTIONS},
    )


def parameter_groups(model: ViTMultiClassClassifier, config: Config) -> list[dict]:
    """What a training changes, with its learning rates. Everything else is frozen, which saves its backward pass."""
    network, lowest, frozen = model.backbone, config.frozen_blocks, []
    if lowest > model.vit.depth:
        raise ValueError(f"frozen_blocks is {lowest}; the backbone has {model.vit.depth} blocks")
    if config.train_mode == "head":
        frozen = [network]
    elif lowest:
        tokens = (getattr(network, name, None) for name in ("cls_token", "pos_embed", "reg_token"))
        frozen = [network.patch_embed, *network.blocks[:lowest], *(token for token in tokens if token is not None)]
    model.requires_grad_(True)
    for part in frozen:
        part.requires_grad_(False)
    backbone = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [{"params": backbone, "lr": config.learning_rate}] if backbone else []
    head_rate = config.head_learning_rate or config.learning_rate
    return [*groups, {"params": list(model.classifier.parameters()), "lr": head_rate}]


def trained_weights(model: ViTMultiClassClassifier, config: Config) -> dict[str, Tensor]:
    """A copy, on the CPU, of what a training may change: all, or without the backbone where a head is trained alone."""
    return {name: tensor.cpu().clone() for name, tensor in _changing(model, config).items()}


def load_trained(model: ViTMultiClassClassifier, weights: dict[str, Tensor], config: Config) -> None:
    """Gives the model what `trained_weights` returned; raises ValueError if it is of another network."""
    if weights.keys() != _changing(model, config).keys():
        raise ValueError("it holds the weights of another network")
    model.load_state_dict(model.state_dict() | weights)


def _changing(model: ViTMultiClassClassifier, config: Config) -> dict[str, Tensor]:
    state, is_head = model.state_dict().items(), config.train_mode == "head"
    return {name: tensor for name, tensor in state if not (is_head and name.startswith("backbone."))}
