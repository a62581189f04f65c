//! A replay that is somewhere: makes writers and samplers, and asks what has one answer.

use std::num::NonZero;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use pmpo_proto::replay::v1;
use pmpo_proto::writer_id_from_wire;
use pmpo_replay::{TableConfig, config_to_wire};
use pmpo_service::security::{Credentials, Role, SecurityConfig};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::replay::columns::{self, of_keys, of_priorities};
use crate::replay::link::Link;
use crate::replay::process::{Deadline, OfProcess};
use crate::replay::sampler::{Sampler, SamplerOptions};
use crate::replay::tables::{name, table_info};
use crate::replay::writer::{Writer, WriterOptions};

/// A connection to a replay server; also what a process started with the method `spawn` is given, for it can be
/// pickled.
///
/// Nothing is connected until it is used. A lost connection is made again by itself.
///
/// Args:
///     address: "host:port" of `pmpo replay`, or of a `Server`.
///     timeout: seconds that a call may take; a server that is away is tried again until then.
///     tls_ca: certificates (PEM) of the CA whose servers are trusted; with it, connections are TLS.
///     tls_cert, tls_key: the certificate (PEM) to show, and its key.
///     token_file: a file with the token to show, or with lines `role token`.
///     role: whose line of that file: "writer", "sampler" or "admin".
///
/// Raises:
///     ValueError: the address is not `host:port`, or a file cannot be used.
#[pyclass(module = "pmpo.replay", frozen)]
pub(crate) struct Client {
    link: OfProcess<Arc<Link>>,
    address: String,
    /// As they were given, to make another in another process.
    options: Py<PyDict>,
}

#[pymethods]
impl Client {
    #[new]
    #[pyo3(signature = (address, *, timeout=10.0, tls_ca=None, tls_cert=None, tls_key=None, token_file=None, role="admin"))]
    #[expect(clippy::too_many_arguments, reason = "keywords of Python")]
    fn new(
        py: Python<'_>,
        address: String,
        timeout: f64,
        tls_ca: Option<PathBuf>,
        tls_cert: Option<PathBuf>,
        tls_key: Option<PathBuf>,
        token_file: Option<PathBuf>,
        role: &str,
    ) -> PyResult<Self> {
        Deadline::after(Some(timeout))?;
        let options = PyDict::new(py);
        options.set_item("timeout", timeout)?;
        options.set_item("tls_ca", &tls_ca)?;
        options.set_item("tls_cert", &tls_cert)?;
        options.set_item("tls_key", &tls_key)?;
        options.set_item("token_file", &token_file)?;
        options.set_item("role", role)?;
        let security = SecurityConfig {
            tls_ca,
            tls_cert,
            tls_key,
            token_file,
            ..SecurityConfig::default()
        };
        let role = Role::from_str(role)
            .map_err(|error| PyValueError::new_err(format!("role: {error}, got `{role}`")))?;
        let credentials = Credentials::load(&security, role)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        let link = Link::new(py, address.clone(), timeout, credentials)?;
        Ok(Self {
            link: OfProcess::new("Client", Arc::new(link)),
            address,
            options: options.unbind(),
        })
    }

    /// "host:port" of the server.
    #[getter]
    fn address(&self) -> &str {
        &self.address
    }

    /// A writer into a table: see `Writer`.
    ///
    /// Args:
    ///     table: its name.
    ///     signature: `{name: Column(dtype, shape)}`, or arrays like those of a step; without it, the first step's.
    ///     max_in_flight_steps: steps that may be appended and not yet acknowledged; beyond it `append` waits.
    ///     timeout: seconds that `append` may wait for the rate limiter or for a server that is away; None: for ever.
    ///
    /// Raises:
    ///     Refused: there is no such table, or this client may not ask.
    ///     Unavailable: the server does not answer.
    ///     ValueError: a column that no table can hold.
    #[pyo3(signature = (table, signature=None, *, max_in_flight_steps=4096, timeout=None))]
    fn writer(
        &self,
        py: Python<'_>,
        table: String,
        signature: Option<&Bound<'_, PyAny>>,
        max_in_flight_steps: usize,
        timeout: Option<f64>,
    ) -> PyResult<Writer> {
        let signature = signature.map(columns::signature).transpose()?;
        let link = Arc::clone(self.link.get(py)?);
        let options = WriterOptions {
            table,
            max_in_flight_steps,
            timeout,
        };
        Writer::new(py, link, options, signature)
    }

    /// A sampler from a table: see `Sampler`.
    ///
    /// Args:
    ///     table: its name.
    ///     batch_size: items in a batch.
    ///     prefetch: batches drawn ahead of their use; more hides latency, fewer are fresher.
    ///     compression: of the network: "none", "lz4" or "zstd".
    ///     timeout: seconds that a batch may be waited for; None: for ever.
    ///     padded: of a table whose items have lengths of their own: whether a batch's arrays are `[batch_size,
    ///         sequence_length, ...]`, with zeros behind an item's end, or `[steps, ...]`, item behind item.
    ///
    /// Raises:
    ///     Refused: there is no such table, or this client may not ask.
    ///     Unavailable: the server does not answer.
    #[pyo3(signature = (table, batch_size, *, prefetch=2, compression="none", timeout=None, padded=true))]
    #[expect(clippy::too_many_arguments, reason = "Python's are named")]
    fn sampler(
        &self,
        py: Python<'_>,
        table: String,
        batch_size: usize,
        prefetch: usize,
        compression: &str,
        timeout: Option<f64>,
        padded: bool,
    ) -> PyResult<Sampler> {
        let link = Arc::clone(self.link.get(py)?);
        let mut options = SamplerOptions::new(table, batch_size, prefetch, compression, timeout)?;
        options.padded = padded;
        Sampler::new(py, link, options)
    }

    /// Sets priorities of items, and waits until that is done.
    ///
    /// Args:
    ///     table: its name.
    ///     keys: as `Batch.keys`, uint64 `[items]`.
    ///     priorities: one for each key, from 0 to 1e30, float `[items]`; all are set or none.
    ///
    /// Returns:
    ///     How many items were updated, and how many had been removed since.
    fn update_priorities(
        &self,
        py: Python<'_>,
        table: String,
        keys: &Bound<'_, PyAny>,
        priorities: &Bound<'_, PyAny>,
    ) -> PyResult<(u64, u64)> {
        let request = v1::UpdatePrioritiesRequest {
            table,
            keys: of_keys(keys)?,
            priorities: of_priorities(priorities)?,
        };
        let answer = self
            .link
            .get(py)?
            .call(py, request, |mut client, request| async move {
                client.update_priorities(request).await
            })?;
        Ok((answer.updated, answer.missing))
    }

    /// Removes items. Wants the role admin.
    ///
    /// Returns:
    ///     How many items were removed, and how many had been before.
    fn delete_items(
        &self,
        py: Python<'_>,
        table: String,
        keys: &Bound<'_, PyAny>,
    ) -> PyResult<(u64, u64)> {
        let keys = of_keys(keys)?;
        let request = v1::DeleteItemsRequest { table, keys };
        let answer = self
            .link
            .get(py)?
            .call(py, request, |mut client, request| async move {
                client.delete_items(request).await
            })?;
        Ok((answer.deleted, answer.missing))
    }

    /// What the tables are and hold, and whom they make wait: `{name: TableInfo}`.
    fn tables<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let tables = PyDict::new(py);
        for info in self.link.get(py)?.list(py)? {
            let name = name(&info).to_owned();
            tables.set_item(name, table_info(py, info)?)?;
        }
        Ok(tables)
    }

    /// Changes a table's limiter and size while it runs, all or nothing, until the server restarts; what is not
    /// given stays as it is. Wants the role admin.
    ///
    /// Returns:
    ///     The table as it is then, a `TableInfo`.
    #[pyo3(signature = (table, *, samples_per_insert=None, min_size_to_sample=None, error_buffer=None, max_size=None, max_bytes=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords of Python")]
    fn configure<'py>(
        &self,
        py: Python<'py>,
        table: String,
        samples_per_insert: Option<f64>,
        min_size_to_sample: Option<u64>,
        error_buffer: Option<f64>,
        max_size: Option<u64>,
        max_bytes: Option<u64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let request = v1::ConfigureTableRequest {
            table,
            samples_per_insert,
            min_size_to_sample,
            error_buffer,
            max_size,
            max_bytes,
        };
        let answer = self
            .link
            .get(py)?
            .call(py, request, |mut client, request| async move {
                client.configure_table(request).await
            })?;
        table_info(py, answer.table.unwrap_or_default())
    }

    /// Empties a table: its items and its signature go, and its limiter counts from nothing. Wants the role admin.
    ///
    /// Returns:
    ///     The table as it is then, a `TableInfo`.
    fn reset<'py>(&self, py: Python<'py>, table: String) -> PyResult<Bound<'py, PyAny>> {
        let request = v1::ResetTableRequest { table };
        let answer = self
            .link
            .get(py)?
            .call(py, request, |mut client, request| async move {
                client.reset_table(request).await
            })?;
        table_info(py, answer.table.unwrap_or_default())
    }

    /// Makes a table while the server runs, or answers the one that is there with this configuration; with a data
    /// directory it is there again after a restart. Wants the role admin.
    ///
    /// Args:
    ///     table: a `Table`.
    ///
    /// Returns:
    ///     The table, a `TableInfo`.
    ///
    /// Raises:
    ///     Refused: a table of this name has another configuration, or this one cannot be.
    fn create_table<'py>(
        &self,
        py: Python<'py>,
        table: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let json = py
            .import("pmpo.replay")?
            .getattr("_table")?
            .call1((table,))?;
        let config: TableConfig = serde_json::from_str(&json.extract::<String>()?)
            .map_err(|error| PyValueError::new_err(format!("table: {error}")))?;
        let config = Some(config_to_wire(&config));
        let request = v1::CreateTableRequest { config };
        let answer = self
            .link
            .get(py)?
            .call(py, request, |mut client, request| async move {
                client.create_table(request).await
            })?;
        table_info(py, answer.table.unwrap_or_default())
    }

    /// Copies all tables of a server with a data directory, while it serves, into a new folder of that directory,
    /// which a server with the same tables can be started with as its own. Wants the role admin.
    ///
    /// Args:
    ///     keep: how many such copies are left, the new one among them; None: all.
    ///
    /// Returns:
    ///     The folder's path, on the server's machine.
    #[pyo3(signature = (keep=None))]
    fn checkpoint(&self, py: Python<'_>, keep: Option<NonZero<u32>>) -> PyResult<String> {
        let keep = keep.map_or(0, NonZero::get);
        let request = v1::CheckpointRequest { keep };
        let answer = self
            .link
            .get(py)?
            .call(py, request, |mut client, request| async move {
                client.checkpoint(request).await
            })?;
        Ok(answer.path)
    }

    /// How many steps of each writer a table has stored, each once: `{writer's id: steps}`, the least recently used
    /// writer first. Wants the role admin.
    fn list_writers<'py>(&self, py: Python<'py>, table: String) -> PyResult<Bound<'py, PyDict>> {
        let request = v1::ListWritersRequest { table };
        let answer = self
            .link
            .get(py)?
            .call(py, request, |mut client, request| async move {
                client.list_writers(request).await
            })?;
        let writers = PyDict::new(py);
        for writer in answer.writers {
            let id = writer_id_from_wire(&writer.writer_id);
            let id = id.map_err(|error| PyValueError::new_err(error.to_string()))?;
            writers.set_item(id.to_string(), writer.next_sequence)?;
        }
        Ok(writers)
    }

    fn __getnewargs_ex__<'py>(&self, py: Python<'py>) -> ((&str,), &Bound<'py, PyDict>) {
        ((&self.address,), self.options.bind(py))
    }

    fn __repr__(&self) -> String {
        format!("pmpo.replay.Client(\"{}\")", self.address)
    }
}
