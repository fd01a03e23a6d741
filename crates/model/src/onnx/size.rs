//! How large a graph is: the numbers in its constants, and their bytes.

use std::collections::HashMap;

use tract_onnx::pb;

use crate::network::Size;

/// Bytes of a number of one of ONNX's types (`TensorProto.DataType` of onnx.proto); of others, those of a float.
fn bytes_of(kind: i32) -> usize {
    match kind {
        2 | 3 | 9 => 1,
        4 | 5 | 10 | 16 => 2,
        7 | 11 | 13 => 8,
        _ => 4,
    }
}

/// Weights in the constants that are left.
pub(super) fn size(model: &pb::ModelProto) -> Size {
    let Some(graph) = &model.graph else {
        return Size::default();
    };
    let mut shapes: HashMap<&str, (usize, usize)> = HashMap::new();
    for tensor in &graph.initializer {
        let dims = tensor
            .dims
            .iter()
            .map(|dim| usize::try_from(*dim).unwrap_or(0));
        let numbers = dims.product();
        shapes.insert(&tensor.name, (numbers, bytes_of(tensor.data_type)));
    }
    let attributes = graph.node.iter().flat_map(|node| &node.attribute);
    let listed = attributes.map(|a| (a.floats.len(), size_of::<f32>()));
    let parts = shapes.into_values().chain(listed);
    parts.fold(Size::default(), |sum, (numbers, bytes)| Size {
        parameters: sum.parameters.saturating_add(numbers),
        bytes: sum.bytes.saturating_add(numbers.saturating_mul(bytes)),
    })
}
