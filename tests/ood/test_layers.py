"""Which inner layers are read, and how."""

import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from torch import nn

import trustml
from trustml.ood._layers import chosen_layers, pooled_key, pooled_layers


def looked(net, X, **options):
    model = trustml.wrap(net, task="classification", **options)
    model.look(X)
    return model


class Residual(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.downsample = None
        if stride > 1 or c_in != c_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out)
            )

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class SmallResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(Residual(8, 8, 1), Residual(8, 8, 1))
        self.layer2 = nn.Sequential(Residual(8, 16, 2), Residual(16, 16, 1))
        self.layer3 = nn.Sequential(Residual(16, 32, 2), Residual(32, 32, 1))
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(32, 4)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.pool(x).flatten(1))


class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attention = nn.MultiheadAttention(d, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))

    def forward(self, x):
        z = self.norm1(x)
        x = x + self.attention(z, z, z, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class SmallViT(nn.Module):
    def __init__(self, depth=8, d=12):
        super().__init__()
        self.patch = nn.Conv2d(1, d, 4, 4)
        self.blocks = nn.ModuleList([Block(d) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, 3)

    def forward(self, x):
        x = self.patch(x).flatten(2).mT
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def test_an_mlp_is_read_after_its_activations():
    net = nn.Sequential(
        nn.Linear(5, 20), nn.ReLU(), nn.Dropout(0.1), nn.Linear(20, 10), nn.BatchNorm1d(10),
        nn.ReLU(), nn.Linear(10, 3),
    )  # fmt: skip
    assert chosen_layers(looked(net, torch.zeros(9, 5)), "auto") == ["2", "5"]


def test_an_mlp_of_one_width_is_read_at_evenly_spaced_layers():
    net = nn.Sequential(*[part for _ in range(8) for part in (nn.Linear(6, 6), nn.Tanh())])
    net.append(nn.Linear(6, 3))
    assert chosen_layers(looked(net, torch.zeros(9, 6)), "auto") == ["3", "7", "11", "15"]


def test_a_conv_net_is_read_at_the_end_of_each_stage():
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(),
        nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 3),
    )  # fmt: skip
    model, X = looked(net, torch.zeros(9, 1, 14, 14)), torch.rand(9, 1, 14, 14)
    assert chosen_layers(model, "auto") == ["3", "6", "9"]
    seen = next(model.observations(X, pooled_layers(model, "auto")))
    maps = net.eval()[:7](X)
    torch.testing.assert_close(seen.layers[pooled_key("6")], maps.mean((2, 3)).detach())
    torch.testing.assert_close(seen.layers[pooled_key("9")], seen.features)


def test_a_resnet_is_read_at_the_end_of_each_stage():
    model = looked(SmallResNet(), torch.zeros(9, 1, 8, 8))
    names = chosen_layers(model, "auto")
    assert names == ["layer1.1", "layer2.1", "pool"]
    X = torch.rand(6, 1, 8, 8)
    (seen,) = model.observations(X, pooled_layers(model, "auto"))
    torch.testing.assert_close(seen.layers[pooled_key("pool")], seen.features)
    assert [tuple(part.shape) for part in seen.layers.values()] == [(6, 8), (6, 16), (6, 32)]


def test_a_vision_transformer_is_read_at_evenly_spaced_blocks():
    net = SmallViT()
    model, X = looked(net, torch.zeros(9, 1, 8, 8)), torch.rand(6, 1, 8, 8)
    names = chosen_layers(model, "auto")
    assert names == ["blocks.1", "blocks.3", "blocks.5", "norm"]
    (seen,) = model.observations(X, pooled_layers(model, ["blocks.0", "patch"]))
    tokens = net.patch(X).flatten(2).mT
    torch.testing.assert_close(seen.layers[pooled_key("patch")], tokens.mean(1).detach())
    torch.testing.assert_close(
        seen.layers[pooled_key("blocks.0")], net.eval().blocks[0](tokens).mean(1).detach()
    )


def test_torchs_own_encoder_is_opened_and_lstms_are_not_read():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.encoder, self.head = nn.Embedding(9, 8), encoder, nn.Linear(8, 2)
            self.lstm = nn.LSTM(8, 8, batch_first=True)

        def forward(self, x):
            return self.head(self.lstm(self.encoder(self.embed(x)))[0][:, -1])

    model = looked(Net(), torch.zeros(9, 5, dtype=torch.long))
    names = chosen_layers(model, "auto")
    assert names == ["embed", *[f"encoder.layers.{i}" for i in range(3)]]


def test_signals_are_averaged_over_time_and_a_wrapper_is_opened():
    body = nn.Sequential(
        nn.Conv1d(2, 6, 3), nn.ReLU(), nn.Conv1d(6, 12, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
    )  # fmt: skip

    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = body

        def forward(self, x):
            return self.body(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = Backbone(), nn.Linear(12, 2)

        def forward(self, x):
            return self.head(self.backbone(x))

    model, X = looked(Net(), torch.zeros(9, 2, 10)), torch.rand(4, 2, 10)
    assert chosen_layers(model, "auto") == ["backbone.body.1", "backbone.body.4"]
    (seen,) = model.observations(X, pooled_layers(model, "auto"))
    torch.testing.assert_close(
        seen.layers[pooled_key("backbone.body.1")], body[:2](X).mean(2).detach()
    )


def test_maps_with_the_channels_last_are_told_from_others():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 6, 3), nn.LayerNorm(6)
            self.mix, self.head = nn.Linear(6, 10), nn.Linear(10, 2)

        def forward(self, x):
            x = self.norm(self.conv(x).permute(0, 2, 3, 1))
            return self.head(self.mix(x).mean((1, 2)))

    net, X = Last(), torch.rand(4, 1, 7, 7)
    model = looked(net, X)
    assert chosen_layers(model, "auto") == ["norm", "mix"]
    (seen,) = model.observations(X, pooled_layers(model, "auto"))
    torch.testing.assert_close(seen.layers[pooled_key("mix")], seen.features)


@pytest.mark.filterwarnings("ignore")
def test_transformers_classifiers_are_read_at_their_blocks():
    transformers = pytest.importorskip("transformers", reason="an extra")
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 6,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "num_labels": 3,
    }
    bert = transformers.BertForSequenceClassification(
        transformers.BertConfig(vocab_size=50, max_position_embeddings=20, **sizes)
    )
    text = {"input_ids": torch.randint(0, 50, (5, 7), generator=torch.Generator().manual_seed(0))}
    model = looked(bert, text)
    # Embeddings, six blocks, and the pooler with its dropout: eight, of which every second.
    expected = [f"bert.encoder.layer.{i}" for i in (0, 2, 4)]
    assert chosen_layers(model, "auto") == [*expected, "dropout"]
    (seen,) = model.observations(text, pooled_layers(model, ["bert.encoder.layer.2"]))
    hidden = bert.eval()(**text, output_hidden_states=True).hidden_states[3]
    torch.testing.assert_close(
        seen.layers[pooled_key("bert.encoder.layer.2")], hidden.mean(1).detach()
    )
    vit = transformers.ViTForImageClassification(
        transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, **sizes)
    )
    names = chosen_layers(looked(vit, torch.rand(5, 1, 8, 8)), "auto")
    assert len(names) == 4
    assert all(".layers." in name or ".layer." in name for name in names[:-1])
    assert names[-1].endswith("layernorm")


def test_models_without_inner_layers_have_none():
    X, y = load_iris(return_X_y=True)
    model = trustml.wrap(LogisticRegression(max_iter=1000).fit(X, y))
    model.look(X)
    assert chosen_layers(model, "auto") == []
    assert chosen_layers(trustml.precomputed("features"), "auto") == []
    assert chosen_layers(model, None) == []


def test_bad_choices_are_refused():
    model = looked(SmallResNet(), torch.zeros(9, 1, 8, 8))
    assert chosen_layers(model, ["layer3", "conv1"]) == ["conv1", "layer3"]
    with pytest.raises(ValueError, match=r"'layer9'.*layer1\.0\.conv1"):
        chosen_layers(model, ["layer9"])
    with pytest.raises(ValueError, match="empty"):
        chosen_layers(model, [])
    with pytest.raises(ValueError, match='"auto"'):
        chosen_layers(model, "layer1")


def test_two_readers_share_a_reading():
    model = looked(SmallResNet(), torch.zeros(9, 1, 8, 8))
    one, other = pooled_layers(model, "auto"), pooled_layers(model, ["layer2.1", "conv1"])
    assert set(one) & set(other) == {pooled_key("layer2.1")}
    X = torch.rand(5, 1, 8, 8)
    (seen,) = model.observations(X, {**one, **other})
    assert len(seen.layers) == 4
    assert all(bool(part.isfinite().all()) for part in seen.layers.values())
