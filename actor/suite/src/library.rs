//! MuJoCo's library, opened where physics is first wanted: what has none of it (a replay, a learner's client)
//! starts on machines without the library, and a missing one is an error like others.
//!
//! mujoco-rs declares MuJoCo's functions and links the library, which the system then wants before `main`.
//! Here those that the product uses are defined instead, each as a jump to where a table says, and
//! [`open`] fills the table from the library. Nothing is left for the linker to take from it, so that it
//! does not name the library in the binary. A function that is not in the list is linked as before: then the
//! library is wanted at the start again, which `deploy/pmpo/tests/dist.rs` sees.

use std::ffi::c_void;
use std::path::PathBuf;
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::error::SuiteError;
use crate::physics::MUJOCO_VERSION;

#[cfg(target_arch = "x86_64")]
macro_rules! jump {
    ($name:literal) => {
        concat!("jmp qword ptr [rip + .Lpmpo_", $name, "]")
    };
}

/// `x16` is the register that a call may lose on its way (AAPCS64, 6.1.1).
#[cfg(target_arch = "aarch64")]
macro_rules! jump {
    ($name:literal) => {
        concat!(
            "adrp x16, .Lpmpo_",
            $name,
            "\n",
            "ldr x16, [x16, :lo12:.Lpmpo_",
            $name,
            "]\n",
            "br x16"
        )
    };
}

/// Defines each function as a jump through its place in the table, which comes to where the list says.
macro_rules! functions {
    ($($name:literal),+ $(,)?) => {
        const NAMES: &[&str] = &[$($name),+];

        std::arch::global_asm!(
            // The table, in the order of the names.
            ".pushsection .data.pmpo_mujoco_table, \"aw\", %progbits",
            ".balign 8",
            ".globl pmpo_mujoco_table",
            ".hidden pmpo_mujoco_table",
            "pmpo_mujoco_table:",
            $(concat!(".Lpmpo_", $name, ": .quad {absent}"),)+
            ".popsection",
            ".pushsection .text.pmpo_mujoco, \"ax\", %progbits",
            $(
                // Hidden: the library's calls to itself are not to come here.
                concat!(".globl ", $name),
                concat!(".hidden ", $name),
                concat!(".type ", $name, ", %function"),
                concat!($name, ":"),
                jump!($name),
            )+
            ".popsection",
            absent = sym absent,
        );
    };
}

functions!(
    "mj_RungeKutta",
    "mj_checkAcc",
    "mj_compile",
    "mj_deleteData",
    "mj_deleteModel",
    "mj_deleteSpec",
    "mj_forward",
    "mj_forwardSkip",
    "mj_id2name",
    "mj_makeData",
    "mj_name2id",
    "mj_objectVelocity",
    "mj_parseXML",
    "mj_resetData",
    "mj_step",
    "mj_step1",
    "mj_step2",
    "mj_version",
    "mj_versionString",
    "mjr_changeFont",
    "mjr_defaultContext",
    "mjr_freeContext",
    "mjr_makeContext",
    "mjr_readPixels",
    "mjr_render",
    "mjr_setBuffer",
    "mjr_uploadHField",
    "mjs_addActuator",
    "mjs_addBody",
    "mjs_addGeom",
    "mjs_addJoint",
    "mjs_addSensor",
    "mjs_addSite",
    "mjs_addTendon",
    "mjs_asBody",
    "mjs_asCamera",
    "mjs_asGeom",
    "mjs_asSensor",
    "mjs_asSite",
    "mjs_delete",
    "mjs_findDefault",
    "mjs_findElement",
    "mjs_firstElement",
    "mjs_getError",
    "mjs_getName",
    "mjs_getSpec",
    "mjs_getString",
    "mjs_nextElement",
    "mjs_setName",
    "mjs_setString",
    "mjs_setToMotor",
    "mjs_wrapSite",
    "mju_getLogConfig",
    "mju_setLogConfig",
    "mju_setLogHandler",
    "mjv_defaultCamera",
    "mjv_defaultFreeCamera",
    "mjv_defaultOption",
    "mjv_defaultPerturb",
    "mjv_defaultScene",
    "mjv_freeScene",
    "mjv_makeScene",
    "mjv_updateScene",
);

unsafe extern "C" {
    #[link_name = "pmpo_mujoco_table"]
    static mut TABLE: [*mut c_void; NAMES.len()];
}

/// Where the table leads before the library is open. Nothing of the product comes here: physics begins with
/// [`open`].
extern "C" fn absent() {
    std::process::abort();
}

/// Environment variable that names the folder of the library.
const FOLDER_VARIABLE: &str = "PMPO_MUJOCO";

/// Opens the library of the expected version, once: the one in the folder that `PMPO_MUJOCO` names, if it is
/// there, else wherever the system finds it along the binary's run path, `LD_LIBRARY_PATH` and its own folders.
pub(crate) fn open() -> Result<(), SuiteError> {
    static OPENED: OnceLock<Result<(), String>> = OnceLock::new();
    let opened = OPENED.get_or_init(|| {
        let name = format!("libmujoco.so.{MUJOCO_VERSION}");
        let named =
            std::env::var_os(FOLDER_VARIABLE).map(|folder| PathBuf::from(folder).join(&name));
        let file = named.filter(|file| file.is_file()).unwrap_or(name.into());
        // SAFETY: the library's initialisers set up its own data alone.
        let library = unsafe { Library::open(Some(&file), RTLD_NOW | RTLD_LOCAL) };
        fill(library.map_err(|error| error.to_string())?)
    });
    opened
        .clone()
        .map_err(|message| SuiteError::MissingMujoco { message })
}

fn fill(library: Library) -> Result<(), String> {
    let place = |name: &&str| {
        // SAFETY: the symbol is not used as a value of the type asked for, only its address is taken.
        let symbol = unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) };
        symbol
            .map(|symbol| symbol.as_raw_ptr())
            .map_err(|error| error.to_string())
    };
    let places: Vec<*mut c_void> = NAMES.iter().map(place).collect::<Result<_, _>>()?;
    for (index, place) in places.into_iter().enumerate() {
        // SAFETY: the table has as many places as there are names; it is written once, here, by one thread,
        // before any of the functions is called.
        unsafe { (&raw mut TABLE[index]).write(place) };
    }
    // It is never closed: what was found in it stays in use.
    std::mem::forget(library);
    Ok(())
}
