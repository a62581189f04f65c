//! A network's parameters by name, and as one vector.
//!
//! Names are those of snapshots, `torso.0.weight`, without the name of the list that holds the
//! layers. As a vector, a network's parameters follow each other in the module's order.

use std::collections::HashMap;
use std::ops::Range;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor, TensorData};
use pmpo_policy::NamedTensor;

/// The parameters with their names, read from the device in one transfer.
pub(crate) fn named_tensors<M: Module>(module: &M) -> Vec<NamedTensor> {
    let mut reader = Reader::default();
    module.visit(&mut reader);
    let values = Tensor::cat(reader.parts, 0).into_data().try_into_vec();
    let mut values = values.expect("parameters are f32").into_iter();
    for tensor in &mut reader.tensors {
        let count = tensor.shape.iter().product();
        tensor.values = values.by_ref().take(count).collect();
    }
    reader.tensors
}

/// `module` with the values of `tensors`.
///
/// # Errors
/// A parameter is missing or has another shape, or there are others; the message names it.
pub(crate) fn with_named_tensors<M: Module>(
    module: M,
    tensors: Vec<NamedTensor>,
) -> Result<M, String> {
    let mut loader = Loader {
        path: Path::default(),
        tensors: tensors.into_iter().map(|t| (t.name.clone(), t)).collect(),
        errors: Vec::new(),
    };
    let module = module.map(&mut loader);
    let unknown = loader
        .tensors
        .into_keys()
        .map(|name| format!("{name}: unknown"));
    let errors: Vec<String> = loader.errors.into_iter().chain(unknown).collect();
    if errors.is_empty() {
        Ok(module)
    } else {
        Err(errors.join("; "))
    }
}

/// Takes the gradient of every parameter of `module` out of `gradients`, as one vector.
pub(crate) fn flat_gradient<M: Module>(module: &M, gradients: &mut Gradients) -> Tensor<1> {
    let mut taker = GradientTaker {
        gradients,
        parts: Vec::new(),
    };
    module.visit(&mut taker);
    Tensor::cat(taker.parts, 0)
}

/// Subtracts `change`, one number for every parameter.
pub(crate) fn subtract<M: Module>(module: M, change: Tensor<1>) -> M {
    let mut subtractor = Subtractor { change, taken: 0 };
    let module = module.map(&mut subtractor);
    assert_eq!(
        subtractor.change.dims(),
        [subtractor.taken],
        "one number a parameter"
    );
    module
}

/// Where a traversal is in its module.
#[derive(Default)]
struct Path(Vec<String>);

impl Path {
    /// A list's own level and an enum's variant are no part of a parameter's name.
    fn enter(&mut self, name: &str, container: &str) {
        let named = name != "layers" && !container.starts_with("Enum:");
        self.0.push(if named {
            name.to_owned()
        } else {
            String::new()
        });
    }

    fn exit(&mut self) {
        self.0.pop();
    }

    fn name(&self) -> String {
        let parts = self.0.iter().map(String::as_str);
        parts
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(".")
    }
}

#[derive(Default)]
struct Reader {
    path: Path,
    /// Without their values, which are in `parts`.
    tensors: Vec<NamedTensor>,
    parts: Vec<Tensor<1>>,
}

impl ModuleVisitor for Reader {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val().without_autodiff();
        self.tensors.push(NamedTensor {
            name: self.path.name(),
            shape: tensor.dims().to_vec(),
            values: Vec::new(),
        });
        self.parts.push(flatten(tensor));
    }
}

struct Loader {
    path: Path,
    tensors: HashMap<String, NamedTensor>,
    errors: Vec<String>,
}

impl ModuleMapper for Loader {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.name();
        let shape = param.val().dims().to_vec();
        match self.tensors.remove(&name) {
            Some(tensor) if tensor.shape == shape => {
                let data = TensorData::new(tensor.values, tensor.shape);
                replace(param, |old| Tensor::from_data(data, &old.device()))
            }
            found => {
                let found = found.map_or("nothing".to_owned(), |t| format!("{:?}", t.shape));
                self.errors
                    .push(format!("{name}: expected {shape:?}, got {found}"));
                param
            }
        }
    }
}

struct GradientTaker<'a> {
    gradients: &'a mut Gradients,
    parts: Vec<Tensor<1>>,
}

impl ModuleVisitor for GradientTaker<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = param.val().grad_remove(self.gradients);
        let gradient = gradient.expect("every parameter takes part in its loss");
        self.parts.push(flatten(gradient));
    }
}

struct Subtractor {
    change: Tensor<1>,
    taken: usize,
}

impl Subtractor {
    fn next(&mut self, count: usize) -> Range<usize> {
        let start = self.taken;
        self.taken += count;
        start..self.taken
    }
}

impl ModuleMapper for Subtractor {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let dims = param.val().dims();
        let change = self.change.clone().slice(self.next(dims.iter().product()));
        replace(param, |old| old - change.reshape(dims))
    }
}

/// Replaces a parameter's value; whether it is trained stays as it was.
fn replace<const D: usize>(
    param: Param<Tensor<D>>,
    value: impl FnOnce(Tensor<D>) -> Tensor<D>,
) -> Param<Tensor<D>> {
    param.map(|old| {
        let trained = old.is_require_grad();
        let new = value(old.without_autodiff());
        if trained {
            new.autodiff().require_grad()
        } else {
            new
        }
    })
}

fn flatten<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let count: usize = tensor.dims().iter().product();
    tensor.reshape([count])
}
