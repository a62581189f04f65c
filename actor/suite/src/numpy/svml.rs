//! `np.log1p`, `np.arcsinh`, `np.arctan2` and `np.tanh` to the last bit on machines with AVX-512, where NumPy
//! calls Intel's SVML. (helper-2 is writing this file and then functions.rs' four bodies.)
