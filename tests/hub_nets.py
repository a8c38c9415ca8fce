"""Small backbones of keras_hub, built from numbers alone, and inputs for them."""

import keras
import keras_hub
import numpy as np
from keras import tree
from keras_hub.src.models.vae.vae_backbone import VAEBackbone

from tfprune import LayerValues

M = keras_hub.models

VOCABULARY = 64
_BLOCKS = dict(vocabulary_size=VOCABULARY, num_layers=2, hidden_dim=32, intermediate_dim=48)
_HEADS = {**_BLOCKS, "num_heads": 4}
_LEARNED = {**_HEADS, "max_sequence_length": 40}
_GROUPED = {**_BLOCKS, "num_query_heads": 4, "num_key_value_heads": 2}
_PATCHES = dict(patch_size=4, num_layers=2, num_heads=4, hidden_dim=32, image_shape=(16, 16, 3))


def electra():
    numbers = {key: value for key, value in _LEARNED.items() if key != "vocabulary_size"}
    return M.ElectraBackbone(vocab_size=VOCABULARY, embedding_dim=16, **numbers)


def smollm3():
    return M.SmolLM3Backbone(
        **_BLOCKS,
        num_attention_heads=4,
        num_key_value_heads=2,
        mlp_bias=False,
        attention_bias=False,
        attention_dropout=0.0,
        rope_layer_enabled_list=[True, False],
        layer_types=["full_attention"] * 2,
        layer_norm_epsilon=1e-5,
        max_position_embeddings=64,
        rope_theta=1e4,
        partial_rotary_factor=1.0,
    )


def whisper():
    return M.WhisperBackbone(**_HEADS, num_mels=8, max_encoder_sequence_length=60, max_decoder_sequence_length=40)


def mit():
    return M.MiTBackbone(
        max_drop_path_rate=0.1,
        layerwise_num_heads=[1, 2],
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        layerwise_sr_ratios=[2, 1],
        layerwise_depths=[1, 1],
        num_layers=2,
        hidden_dims=[16, 32],
        image_shape=(32, 32, 3),
    )


def swin():
    return M.SwinTransformerBackbone(
        image_shape=(32, 32, 3), patch_size=2, embed_dim=16, window_size=4, depths=[2, 2], num_heads=[2, 4]
    )


def clip():
    text = M.CLIPTextEncoder(**_HEADS, embedding_dim=32, max_sequence_length=13)
    return M.CLIPBackbone(M.CLIPVisionEncoder(**_PATCHES, intermediate_dim=48), text, projection_dim=24)


def siglip():
    text = M.SigLIPTextEncoder(**_HEADS, embedding_dim=32, max_sequence_length=13, projection_dim=32)
    return M.SigLIPBackbone(M.SigLIPVisionEncoder(**_PATCHES, intermediate_dim=48), text)


def sam():
    image = M.ViTDetBackbone(
        hidden_size=16,
        num_layers=2,
        intermediate_dim=24,
        num_heads=4,
        global_attention_layer_indices=[1],
        image_shape=(64, 64, 3),
        patch_size=16,
        num_output_channels=8,
        window_size=2,
    )
    prompt = keras_hub.layers.SAMPromptEncoder(
        hidden_size=8, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_channels=16
    )
    decoder = keras_hub.layers.SAMMaskDecoder(
        num_layers=2, hidden_size=8, intermediate_dim=32, num_heads=2, embedding_dim=8, iou_head_hidden_dim=8
    )
    return M.SAMBackbone(image_encoder=image, prompt_encoder=prompt, mask_decoder=decoder)


def stable_diffusion3():
    vae = VAEBackbone([32] * 4, [1] * 4, [32] * 4, [1] * 4, image_shape=(32, 32, 3))
    numbers = dict(vocabulary_size=VOCABULARY, num_layers=2, num_heads=2, intermediate_dim=32, max_sequence_length=8)
    clip_l, clip_g = (
        M.CLIPTextEncoder(embedding_dim=16, hidden_dim=16, intermediate_output_index=0, name=name, **numbers)
        for name in ("clip_l", "clip_g")
    )
    return M.StableDiffusion3Backbone(
        mmdit_patch_size=2,
        mmdit_hidden_dim=32,
        mmdit_num_layers=2,
        mmdit_num_heads=4,
        mmdit_position_size=16,
        mmdit_qk_norm=None,
        mmdit_dual_attention_indices=None,
        vae=vae,
        clip_l=clip_l,
        clip_g=clip_g,
        image_shape=(32, 32, 3),
    )


def resnet():
    return M.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 32],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(32, 32, 3),
    )


def cspnet():
    return M.CSPNetBackbone(
        stem_filters=16,
        stem_kernel_size=3,
        stem_strides=1,
        stackwise_depth=[1, 2],
        stackwise_strides=[1, 2],
        stackwise_num_filters=[16, 32],
        block_type="dark_block",
        stage_type="dark",
        image_shape=(16, 16, 3),
    )


def hgnetv2():
    return M.HGNetV2Backbone(
        depths=[1, 2],
        embedding_size=16,
        hidden_sizes=[16, 32],
        stem_channels=[3, 8, 16],
        hidden_act="relu",
        use_learnable_affine_block=False,
        stackwise_stage_filters=[(16, 8, 32, 1, 2, 3), (32, 16, 64, 1, 2, 3)],
        apply_downsample=[False, True],
        use_lightweight_conv_block=[False, False],
        image_shape=(32, 32, 3),
    )


def mobilenet():
    return M.MobileNetBackbone(
        stackwise_expansion=[[24, 24], [32, 32]],
        stackwise_num_blocks=[2, 2],
        stackwise_num_filters=[[16, 16], [24, 24]],
        stackwise_kernel_size=[[3, 3], [5, 5]],
        stackwise_num_strides=[[2, 1], [1, 1]],
        stackwise_se_ratio=[[None, None], [0.25, 0.25]],
        stackwise_activation=[["relu", "relu"], ["hard_swish", "hard_swish"]],
        stackwise_padding=[[1, 1], [2, 2]],
        output_num_filters=48,
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        last_layer_filter=48,
        squeeze_and_excite=0.5,
        image_shape=(32, 32, 3),
    )


def retinanet():
    return M.RetinaNetBackbone(resnet(), min_level=2, max_level=4, use_p5=False, image_shape=(32, 32, 3))


def deeplab():
    return M.DeepLabV3Backbone(
        resnet(),
        spatial_pyramid_pooling_key="P3",
        upsampling_size=2,
        dilation_rates=[2, 4],
        low_level_feature_key="P2",
        projection_filters=16,
        image_shape=(32, 32, 3),
    )


BACKBONES = {
    "Bert": lambda: M.BertBackbone(**_LEARNED),
    "DistilBert": lambda: M.DistilBertBackbone(**_LEARNED),
    "Roberta": lambda: M.RobertaBackbone(**_LEARNED),
    "XLMRoberta": lambda: M.XLMRobertaBackbone(**_LEARNED),
    "Albert": lambda: M.AlbertBackbone(embedding_dim=16, **_LEARNED),
    "Electra": electra,
    "DebertaV3": lambda: M.DebertaV3Backbone(**_LEARNED, bucket_size=8),
    "FNet": lambda: M.FNetBackbone(**_BLOCKS, max_sequence_length=40),
    "XLNet": lambda: M.XLNetBackbone(**_HEADS, dropout=0.1),
    "RoformerV2": lambda: M.RoformerV2Backbone(**_HEADS, dropout=0.1, head_size=8),
    "ESM2": lambda: M.ESMBackbone(**_HEADS),
    "GPT2": lambda: M.GPT2Backbone(**_LEARNED),
    "OPT": lambda: M.OPTBackbone(**_LEARNED),
    "GPTNeoX": lambda: M.GPTNeoXBackbone(**_HEADS),
    "Bloom": lambda: M.BloomBackbone(**_HEADS),
    "Falcon": lambda: M.FalconBackbone(**_BLOCKS, num_attention_heads=4),
    "Llama": lambda: M.LlamaBackbone(**_GROUPED),
    "Llama3": lambda: M.Llama3Backbone(**_GROUPED),
    "Mistral": lambda: M.MistralBackbone(**_GROUPED),
    "Mixtral": lambda: M.MixtralBackbone(**_GROUPED, num_experts=3, top_k=2),
    "Qwen": lambda: M.QwenBackbone(**_GROUPED),
    "Qwen3": lambda: M.Qwen3Backbone(**_GROUPED, head_dim=8),
    "Phi3": lambda: M.Phi3Backbone(**_GROUPED),
    "Gemma": lambda: M.GemmaBackbone(**{**_GROUPED, "intermediate_dim": 96}, head_dim=8),
    "Gemma3": lambda: M.Gemma3Backbone(**_GROUPED, head_dim=8, image_size=16),
    "SmolLM3": smollm3,
    "T5": lambda: M.T5Backbone(**_HEADS),
    "Bart": lambda: M.BartBackbone(**_LEARNED),
    "Whisper": whisper,
    "ViT": lambda: M.ViTBackbone(**_PATCHES, mlp_dim=48),
    "DeiT": lambda: M.DeiTBackbone(**_PATCHES, intermediate_dim=48),
    "DINOV2": lambda: M.DINOV2Backbone(**_PATCHES, intermediate_dim=48),
    "SwinTransformer": swin,
    "MiT": mit,
    "SegFormer": lambda: M.SegFormerBackbone(mit(), projection_filters=16),
    "CLIP": clip,
    "SigLIP": siglip,
    "SAM": sam,
    "StableDiffusion3": stable_diffusion3,
    "ResNet": resnet,
    "CSPNet": cspnet,
    "HGNetV2": hgnetv2,
    "MobileNet": mobilenet,
    "RetinaNet": retinanet,
    "DeepLabV3": deeplab,
}
"""For each family a function that builds a small one."""


def moved(model, seed=1):
    """Moves all weights, so that no bias is zero and no norm is one; returns the model."""
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        if "int" not in variable.dtype and "seed" not in variable.path:
            value = keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))
            # Variances stay above zero.
            variable.assign(value + np.abs(0.1 * generator.normal(size=value.shape)) * np.where(value < 0, -1, 1))
    return model


def inputs_of(model, samples=3, length=13, seed=0):
    """Returns random inputs, structured as the model takes them; lengths that it leaves open are `length`."""
    generator = np.random.default_rng(seed)
    arrays = []
    for tensor in model.inputs:
        shape = [samples if axis == 0 else own or length for axis, own in enumerate(tensor.shape)]
        if "padding_mask" in tensor.name and len(shape) == 2:
            # Some samples end early; each has a token.
            ends = generator.integers(shape[1] // 2 + 1, shape[1] + 1, (samples, 1))
            array = np.arange(shape[1]) < ends
        elif "int" in tensor.dtype or "bool" in tensor.dtype:
            array = generator.integers(0, 2 if "segment" in tensor.name else 60, shape)
        else:
            array = generator.normal(size=shape)
        arrays.append(array.astype(tensor.dtype))
    return tree.pack_sequence_as(model._inputs_struct, arrays)


def flat(outputs):
    return [keras.ops.convert_to_numpy(keras.ops.cast(own, "float32")) for own in tree.flatten(outputs)]


def half_of_feed_forward(graph):
    """Returns a mask of every second feed-forward unit of these nets; all else stays whole."""
    return LayerValues({name: np.arange(size) % 2 == 0 for name, size in graph.sizes.items() if size == 48})


def difference(one, other):
    """Returns the largest difference of two structures of outputs, relative to the largest output."""
    one, other = flat(one), flat(other)
    scale = max(1.0, *(float(np.abs(own).max(initial=0.0)) for own in other))
    return max(float(np.abs(a - b).max(initial=0.0)) for a, b in zip(one, other, strict=True)) / scale
