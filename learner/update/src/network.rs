//! A network as tensors of the tensor library: the tensors of a [`Plan`], and the running of its
//! operations. Values are constants; [`Network::tracked`] gives the leaves that gradients are wanted of.

use burn::tensor::{Device, Gradients, Tensor, TensorData};
use pmpo_kernels::fused;
use pmpo_policy::{Init, LinearOp, NamedTensor, Op, Plan, TensorSpec};
use rand::Rng;
use rand_distr::{Distribution, Uniform};

/// One tensor, of one or two axes.
#[derive(Clone, Debug)]
pub(crate) enum Parameter {
    Vector(Tensor<1>),
    Matrix(Tensor<2>),
}

impl Parameter {
    fn new(values: Vec<f32>, shape: &[usize], device: &Device) -> Self {
        match *shape {
            [size] => Self::Vector(Tensor::from_data(TensorData::new(values, [size]), device)),
            [inputs, outputs] => {
                let data = TensorData::new(values, [inputs, outputs]);
                Self::Matrix(Tensor::from_data(data, device))
            }
            _ => unreachable!("tensors of a plan have one or two axes"),
        }
    }

    fn tracked(self) -> Self {
        match self {
            Self::Vector(tensor) => Self::Vector(tensor.autodiff().require_grad()),
            Self::Matrix(tensor) => Self::Matrix(tensor.autodiff().require_grad()),
        }
    }

    /// The values one after the other.
    pub(crate) fn flat(&self) -> Tensor<1> {
        match self {
            Self::Vector(tensor) => tensor.clone(),
            Self::Matrix(tensor) => {
                let [inputs, outputs] = tensor.dims();
                tensor.clone().reshape([inputs * outputs])
            }
        }
    }

    /// The gradient of this leaf, as flat as [`flat`](Self::flat); `None` if the loss does not depend
    /// on it.
    fn gradient(&self, gradients: &mut Gradients) -> Option<Self> {
        match self {
            Self::Vector(tensor) => tensor.grad_remove(gradients).map(Self::Vector),
            Self::Matrix(tensor) => tensor.grad_remove(gradients).map(Self::Matrix),
        }
    }

    /// The sum of the squares, `[1]`.
    pub(crate) fn square_sum(&self) -> Tensor<1> {
        match self {
            Self::Vector(tensor) => tensor.clone().square().sum(),
            Self::Matrix(tensor) => tensor.clone().square().sum(),
        }
    }

    pub(crate) fn zeros_like(&self) -> Self {
        match self {
            Self::Vector(tensor) => Self::Vector(tensor.zeros_like()),
            Self::Matrix(tensor) => Self::Matrix(tensor.zeros_like()),
        }
    }

    /// The same times `factor` `[1]`.
    pub(crate) fn times(self, factor: Tensor<1>) -> Self {
        match self {
            Self::Vector(tensor) => Self::Vector(tensor * factor),
            Self::Matrix(tensor) => Self::Matrix(tensor * factor.unsqueeze::<2>()),
        }
    }

    /// A tensor of the same shape with these values.
    pub(crate) fn like(&self, values: Vec<f32>) -> Self {
        match self {
            Self::Vector(tensor) => Self::new(values, &tensor.dims(), &tensor.device()),
            Self::Matrix(tensor) => Self::new(values, &tensor.dims(), &tensor.device()),
        }
    }

    /// The same plus `factor` times another of its shape.
    #[cfg(test)]
    pub(crate) fn plus(&self, other: &Self, factor: f64) -> Self {
        let sum = self.flat() + other.flat() * factor;
        self.like(sum.into_data().try_into_vec().expect("parameters are f32"))
    }

    /// Takes it out; what stays is of no use.
    pub(crate) fn take(&mut self) -> Self {
        let nothing = Self::Vector(Tensor::zeros([1], &Device::flex()));
        std::mem::replace(self, nothing)
    }
}

/// A network's tensors, in the order of its plan.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) parameters: Vec<Parameter>,
}

impl Network {
    /// A fresh network. Numbers are drawn on the host from `rng`, so that a seed gives the same network
    /// on every device.
    pub(crate) fn new(plan: &Plan, rng: &mut impl Rng, device: &Device) -> Self {
        let draw = |spec: &TensorSpec| {
            let values = match spec.init {
                Init::Constant(value) => vec![value; spec.elements()],
                Init::Uniform(variance) => {
                    let limit = (3.0 * variance / spec.shape[0] as f64).sqrt() as f32;
                    let uniform = Uniform::new_inclusive(-limit, limit);
                    let uniform = uniform.expect("a finite, positive limit");
                    uniform
                        .sample_iter(&mut *rng)
                        .take(spec.elements())
                        .collect()
                }
            };
            Parameter::new(values, &spec.shape, device)
        };
        Self {
            parameters: plan.tensors.iter().map(draw).collect(),
        }
    }

    /// The same values as leaves of a graph, but for what is not trained.
    pub(crate) fn tracked(&self, plan: &Plan) -> Self {
        let parameters = self.parameters.iter().zip(&plan.tensors);
        Self {
            parameters: parameters
                .map(|(parameter, spec)| match spec.trained {
                    true => parameter.clone().tracked(),
                    false => parameter.clone(),
                })
                .collect(),
        }
    }

    /// Takes the gradients of these leaves, `None` for what is not trained.
    pub(crate) fn gradients(
        &self,
        plan: &Plan,
        gradients: &mut Gradients,
    ) -> Vec<Option<Parameter>> {
        let parameters = self.parameters.iter().zip(&plan.tensors);
        parameters
            .map(|(parameter, spec)| {
                spec.trained.then(|| {
                    let gradient = parameter.gradient(gradients);
                    gradient.expect("every trained tensor takes part in its loss")
                })
            })
            .collect()
    }

    /// Moves by `share` of the way to another network of the same plan.
    pub(crate) fn move_towards(&mut self, other: &Self, share: f64) {
        use Parameter::{Matrix, Vector};
        for (own, other) in self.parameters.iter_mut().zip(&other.parameters) {
            *own = match (own.take(), other) {
                (Vector(own), Vector(other)) => Vector(fused::lerp(own, other.clone(), share)),
                (Matrix(own), Matrix(other)) => Matrix(fused::lerp(own, other.clone(), share)),
                _ => unreachable!("one plan"),
            };
        }
    }

    /// The torso's features `[rows, features]` of inputs `[rows, inputs]`.
    pub(crate) fn features(&self, plan: &Plan, input: Tensor<2>) -> Tensor<2> {
        self.run(&plan.torso, input)
    }

    fn run(&self, ops: &[Op], input: Tensor<2>) -> Tensor<2> {
        ops.iter().fold(input, |x, op| match op {
            Op::Linear(op) => self.linear(op, x),
            Op::LayerNorm { norm, nonlinearity } => {
                let norm = norm.map(|place| self.vector(place));
                fused::layer_norm(x, norm, *nonlinearity)
            }
            Op::Activation(nonlinearity) => fused::activate(x, *nonlinearity),
            Op::Residual(inner) => self.run(inner, x.clone()) + x,
        })
    }

    /// One linear layer with what directly follows it.
    pub(crate) fn linear(&self, op: &LinearOp, input: Tensor<2>) -> Tensor<2> {
        let norm = op.norm.map(|norm| norm.map(|place| self.vector(place)));
        let (weight, bias) = (self.matrix(op.weight), self.vector(op.bias));
        fused::layer(input, weight, bias, norm, op.nonlinearity)
    }

    fn vector(&self, place: usize) -> &Tensor<1> {
        match &self.parameters[place] {
            Parameter::Vector(tensor) => tensor,
            Parameter::Matrix(_) => unreachable!("the plan has a vector here"),
        }
    }

    fn matrix(&self, place: usize) -> &Tensor<2> {
        match &self.parameters[place] {
            Parameter::Matrix(tensor) => tensor,
            Parameter::Vector(_) => unreachable!("the plan has a matrix here"),
        }
    }

    /// The tensors with their names, read from the device in one transfer.
    pub(crate) fn named(&self, plan: &Plan) -> Vec<NamedTensor> {
        let parts = self.parameters.iter().map(Parameter::flat).collect();
        let values = Tensor::cat(parts, 0).into_data().try_into_vec::<f32>();
        let mut values = values.expect("parameters are f32").into_iter();
        plan.tensors
            .iter()
            .map(|spec| NamedTensor {
                name: spec.name.clone(),
                shape: spec.shape.clone(),
                values: values.by_ref().take(spec.elements()).collect(),
            })
            .collect()
    }

    /// A network of named tensors, which must be exactly those of the plan.
    ///
    /// # Errors
    /// Names each tensor that is missing, unknown or of another shape.
    pub(crate) fn from_named(
        plan: &Plan,
        tensors: Vec<NamedTensor>,
        device: &Device,
    ) -> Result<Self, String> {
        let mut tensors = by_name(tensors);
        let mut errors = Vec::new();
        let mut parameters = Vec::with_capacity(plan.tensors.len());
        for spec in &plan.tensors {
            match tensors.remove(&spec.name) {
                Some(tensor) if tensor.shape == spec.shape => {
                    parameters.push(Parameter::new(tensor.values, &spec.shape, device));
                }
                found => {
                    let found = found.map_or("nothing".to_owned(), |t| format!("{:?}", t.shape));
                    let (name, expected) = (&spec.name, &spec.shape);
                    errors.push(format!("{name}: expected {expected:?}, got {found}"));
                }
            }
        }
        errors.extend(tensors.into_keys().map(|name| format!("{name}: unknown")));
        if errors.is_empty() {
            Ok(Self { parameters })
        } else {
            Err(errors.join("; "))
        }
    }
}

fn by_name(tensors: Vec<NamedTensor>) -> std::collections::BTreeMap<String, NamedTensor> {
    let named = tensors.into_iter();
    named.map(|tensor| (tensor.name.clone(), tensor)).collect()
}
